package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// kubectlTimeout bounds one command: none of those here waits for long.
const kubectlTimeout = 3 * time.Minute

// kubectl runs what a person would type, in a namespace, and returns what it
// prints.
func kubectl(namespace, input string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), kubectlTimeout)
	defer cancel()
	if namespace != "" {
		args = append([]string{"--namespace", namespace}, args...)
	}
	cmd := exec.CommandContext(ctx, "kubectl", args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("kubectl %s: %w\n%s%s", strings.Join(args, " "), err, &stdout, &stderr)
	}
	return stdout.String(), nil
}

// newAPI is a client of the Kubernetes that KUBECONFIG points at, or of the one
// that this process is a pod of.
func newAPI() (kubernetes.Interface, error) {
	config, err := apiConfig()
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}

func apiConfig() (*rest.Config, error) {
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		clientcmd.NewDefaultClientConfigLoadingRules(), nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("no Kubernetes to test on: %w: set KUBECONFIG", err)
	}
	// Waiting is done by asking often.
	config.QPS, config.Burst = 100, 200
	return config, nil
}
