//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/kube-network-policies/pkg/networkpolicy"
)

// queue is the number of the kernel's queue of packets to be judged.
const queue = 100

func main() {
	node := flag.String("node", "", "the node's name")
	klog.InitFlags(nil)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *node); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, node string) error {
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		clientcmd.NewDefaultClientConfigLoadingRules(), nil).ClientConfig()
	if err != nil {
		return err
	}
	api, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(api, 0)
	controller, err := networkpolicy.NewController(api, factory.Networking().V1().NetworkPolicies(), factory.Core().V1().Namespaces(),
		factory.Core().V1().Pods(), nil, nil, nil, nil, networkpolicy.Config{QueueID: queue, NodeName: node})
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- controller.Run(ctx) }()
	factory.Start(ctx.Done())
	if err := awaitQueue(ctx, ended); err != nil {
		return err
	}
	remove, err := ask(ctx, api)
	if err != nil {
		return err
	}
	fmt.Println("network policies count on", node)
	select {
	case <-ctx.Done():
		err = nil
	case err = <-ended:
		err = fmt.Errorf("the controller has ended: %w", err)
	}
	return errors.Join(err, remove())
}

// awaitQueue waits until the controller takes packets from the queue: without it all
// of them are lost.
func awaitQueue(ctx context.Context, ended <-chan error) error {
	for {
		if open, err := isOpen(); open || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-ended:
			return fmt.Errorf("the controller has ended: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func isOpen() (bool, error) {
	file, err := os.Open("/proc/net/netfilter/nfnetlink_queue")
	if err != nil {
		return false, err
	}
	defer file.Close() //nolint:errcheck // It was only read.
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) > 0 && fields[0] == strconv.Itoa(queue) {
			return true, nil
		}
	}
	return false, lines.Err()
}

// ask has each new connection judged, between the pods of one node as well. Connections
// from nodes are let in, because a node's own probes always are.
func ask(ctx context.Context, api kubernetes.Interface) (remove func() error, err error) {
	const between = "/proc/sys/net/bridge/bridge-nf-call-iptables"
	if err := os.WriteFile(between, []byte("1"), 0o600); err != nil {
		return nil, err
	}
	nodes, err := api.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	rules := [][]string{{"POSTROUTING", "-m", "addrtype", "--src-type", "LOCAL", "-j", "ACCEPT"}}
	for _, n := range nodes.Items {
		for _, a := range n.Status.Addresses {
			if a.Type == corev1.NodeInternalIP {
				rules = append(rules, []string{"POSTROUTING", "-s", a.Address, "-j", "ACCEPT"})
			}
		}
	}
	rules = append(rules, []string{"POSTROUTING", "-p", "tcp", "-m", "conntrack", "--ctstate", "NEW", "-j", "NFQUEUE", "--queue-num", strconv.Itoa(queue)})
	for _, rule := range rules {
		if err := iptables("-A", rule); err != nil {
			return nil, err
		}
	}
	return func() (err error) {
		for _, rule := range rules {
			err = errors.Join(err, iptables("-D", rule))
		}
		return err
	}, nil
}

func iptables(verb string, rule []string) error {
	out, err := exec.Command("iptables", append([]string{"-w", "-t", "mangle", verb}, rule...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("iptables %s %s: %w: %s", verb, strings.Join(rule, " "), err, out)
	}
	return nil
}
