package e2e

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// logs keeps what every container of a namespace has written, also of those that
// are gone: a file for each.
type logs struct {
	api       kubernetes.Interface
	namespace string
	dir       string
	cancel    context.CancelFunc
	tasks     sync.WaitGroup
}

func followLogs(api kubernetes.Interface, namespace, dir string) *logs {
	ctx, cancel := context.WithCancel(context.Background())
	l := &logs{api: api, namespace: namespace, dir: dir, cancel: cancel}
	l.tasks.Go(func() { l.find(ctx) })
	return l
}

func (l *logs) stop() {
	l.cancel()
	l.tasks.Wait()
}

// find follows each container once.
func (l *logs) find(ctx context.Context) {
	followed := map[string]bool{}
	for ctx.Err() == nil {
		pods, err := l.api.CoreV1().Pods(l.namespace).List(ctx, metav1.ListOptions{})
		if err == nil {
			for _, p := range pods.Items {
				for _, s := range p.Status.ContainerStatuses {
					if s.State.Running == nil || followed[s.ContainerID] {
						continue
					}
					followed[s.ContainerID] = true
					l.tasks.Go(func() { l.follow(ctx, p.Name, len(followed)) })
				}
			}
		}
		sleep(ctx, 300*time.Millisecond)
	}
}

// follow copies one container's log until it or the test ends. What cannot be
// read is missing from what a person reads after a failure, no more.
func (l *logs) follow(ctx context.Context, pod string, n int) {
	stream, err := l.api.CoreV1().Pods(l.namespace).GetLogs(pod, &corev1.PodLogOptions{Follow: true}).Stream(ctx)
	if err != nil {
		return
	}
	defer stream.Close() //nolint:errcheck // It was only read.
	file, err := os.Create(filepath.Join(l.dir, fmt.Sprintf("%s.%d.log", pod, n)))
	if err != nil {
		return
	}
	defer file.Close() //nolint:errcheck // As above.
	_, _ = io.Copy(file, stream)
}

// said says whether a pod has logged a text.
func (l *logs) said(pod, text string) bool { return strings.Contains(l.read(pod), text) }

// read is what a pod has logged, in each of its lives.
func (l *logs) read(pod string) string {
	files, _ := filepath.Glob(filepath.Join(l.dir, pod+".*.log")) // the pattern is good
	var all []byte
	for _, file := range files {
		text, _ := os.ReadFile(file) // as for follow
		all = append(all, text...)
	}
	return string(all)
}

// cloned is the line of a pod that has received a clone.
var cloned = regexp.MustCompile(`msg="the database was cloned" .*source=(kv-\d+)`)

// wantCloned checks that a pod has cloned one other, and only that.
func (c *Cluster) wantCloned(pod, source string) {
	c.t.Helper()
	var sources []string
	c.await(pod+" logs what it cloned", 10*time.Second, func() bool {
		sources = nil
		for _, found := range cloned.FindAllStringSubmatch(c.logs.read(pod), -1) {
			sources = append(sources, found[1])
		}
		return len(sources) > 0
	})
	if !slices.Equal(sources, []string{source}) {
		c.t.Errorf("%s cloned %v, and %s is the pod before it", pod, sources, source)
	}
}
