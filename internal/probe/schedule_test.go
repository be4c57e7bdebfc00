package probe

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

var update = flag.Bool("update", false, "rewrite the transcripts with what happens now")

// TestSchedule replays the transcripts under testdata/schedule on a fake
// clock. Lines without indent say what containers have and do; the indented
// lines after them are what the prober then asks, when, and what it makes of
// the answers.
func TestSchedule(t *testing.T) {
	files, _ := filepath.Glob("testdata/schedule/*.txt")
	if len(files) == 0 {
		t.Fatal("no transcripts in testdata/schedule")
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var got string
			synctest.Test(t, func(t *testing.T) { got = replay(t, string(text)) })
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(text) {
				t.Errorf("transcript differs (run with -update to accept):\n%s", got)
			}
		})
	}
}

// stage is a prober whose containers answer what a transcript says.
type stage struct {
	t      *testing.T
	prober *Prober
	cancel context.CancelFunc
	ended  chan struct{}
	began  time.Time

	pod     *v1.Pod
	targets []Target

	mu      sync.Mutex
	answers map[string][]string // by "container Kind"
	lines   []line
	last    map[string]string
}

type line struct {
	at   time.Duration
	text string
}

func newStage(t *testing.T) *stage {
	st := &stage{
		t: t, began: time.Now(), ended: make(chan struct{}),
		pod:     &v1.Pod{},
		answers: map[string][]string{}, last: map[string]string{},
	}
	st.pod.Name, st.pod.Namespace, st.pod.UID = "p", "default", "u1"
	p, err := New(Config{Exec: noExec{}, Events: st, Wake: func(types.UID) { st.note("wake") }, Version: "1.37", Cores: 2})
	if err != nil {
		t.Fatal(err)
	}
	p.ask = st.ask
	st.prober = p
	ctx, cancel := context.WithCancel(t.Context())
	st.cancel = cancel
	go func() {
		defer close(st.ended)
		if err := p.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	return st
}

func (st *stage) close() {
	st.cancel()
	<-st.ended
}

type noExec struct{}

func (noExec) ExecSync(context.Context, string, []string, time.Duration) ([]byte, []byte, int32, error) {
	return nil, nil, 0, errors.New("not in this test")
}

func (noExec) ContainerPid(context.Context, string) (int, error) {
	return 0, errors.New("not in this test")
}

func (st *stage) note(format string, args ...any) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.lines = append(st.lines, line{time.Since(st.began), fmt.Sprintf(format, args...)})
}

func (st *stage) Event(_ *v1.Pod, container, eventType, reason, message string) {
	st.note("event %s %s %s: %s", container, eventType, reason, message)
}

// ask gives the next answer of the container to that kind of probe; the last
// one stays.
func (st *stage) ask(ctx context.Context, q question) outcome {
	key := q.container.Name + " " + q.kind.String()
	st.mu.Lock()
	answer := "ok"
	if list := st.answers[key]; len(list) > 0 {
		answer = list[0]
		if len(list) > 1 {
			st.answers[key] = list[1:]
		}
	}
	st.mu.Unlock()
	answer, takes, _ := strings.Cut(answer, "/")
	st.note("ask %s → %s", key, answer)
	if takes != "" {
		d, err := time.ParseDuration(takes)
		if err != nil {
			panic(err)
		}
		select {
		case <-time.After(d):
		case <-ctx.Done():
			st.note("cut %s", key)
			return outcome{verdict: failed, output: "cancelled"}
		}
	}
	switch answer {
	case "ok":
		return outcome{verdict: passed}
	case "warn":
		return outcome{verdict: warned, output: "moved"}
	case "fail":
		return outcome{verdict: failed, output: "no"}
	case "error":
		return outcome{verdict: unknown, err: errors.New("runtime trouble")}
	case "stall":
		return outcome{verdict: failed, output: "late", stalled: true}
	default:
		panic("unknown answer " + answer)
	}
}

func replay(t *testing.T, text string) string {
	var got strings.Builder
	st := newStage(t)
	defer func() { st.close() }()
	for raw := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(raw, "#") || strings.TrimSpace(raw) == "":
			got.WriteString(raw)
			continue
		case strings.HasPrefix(raw, " "):
			continue
		}
		got.WriteString(raw)
		if strings.HasPrefix(raw, "anew") {
			st.close()
			st = newStage(t)
			continue
		}
		st.happen(strings.Fields(raw))
		synctest.Wait()
		st.flush(&got)
	}
	return got.String()
}

func (st *stage) happen(words []string) {
	switch words[0] {
	case "probe":
		st.addProbe(words[1], words[2], words[3:])
	case "answer":
		st.mu.Lock()
		st.answers[words[1]+" "+words[2]] = words[3:]
		st.mu.Unlock()
	case "follow":
		st.follow(words[1], words[2:])
		st.prober.Follow(st.pod, slices.Clone(st.targets))
	case "unfollow":
		st.targets = slices.DeleteFunc(st.targets, func(t Target) bool { return t.Container.Name == words[1] })
		st.prober.Follow(st.pod, slices.Clone(st.targets))
	case "forget":
		st.targets = nil
		st.prober.Forget(st.pod.UID)
	case "wait":
		d, err := time.ParseDuration(words[1])
		if err != nil {
			st.t.Fatal(err)
		}
		// Step by step, so that it is seen when results change.
		for end := time.Now().Add(d); time.Now().Before(end); {
			time.Sleep(min(50*time.Millisecond, time.Until(end)))
			synctest.Wait()
			st.results()
		}
	default:
		st.t.Fatalf("unknown word %q", words[0])
	}
	synctest.Wait()
	st.results()
}

func (st *stage) container(name string) *v1.Container {
	for i := range st.pod.Spec.Containers {
		if st.pod.Spec.Containers[i].Name == name {
			return &st.pod.Spec.Containers[i]
		}
	}
	st.pod.Spec.Containers = slices.Grow(st.pod.Spec.Containers, 8)
	st.pod.Spec.Containers = append(st.pod.Spec.Containers, v1.Container{Name: name})
	return &st.pod.Spec.Containers[len(st.pod.Spec.Containers)-1]
}

func (st *stage) addProbe(name, kind string, words []string) {
	p := &v1.Probe{}
	p.Exec = &v1.ExecAction{Command: []string{"ask"}}
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		n, _ := strconv.Atoi(value)
		switch key {
		case "net":
			p.ProbeHandler = v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{}}
		case "delay":
			p.InitialDelaySeconds = int32(n)
		case "period":
			p.PeriodSeconds = int32(n)
		case "timeout":
			p.TimeoutSeconds = int32(n)
		case "failures":
			p.FailureThreshold = int32(n)
		case "successes":
			p.SuccessThreshold = int32(n)
		case "grace":
			grace := int64(n)
			p.TerminationGracePeriodSeconds = &grace
		default:
			st.t.Fatalf("unknown word %q", w)
		}
	}
	c := st.container(name)
	switch kind {
	case "Startup":
		c.StartupProbe = p
	case "Liveness":
		c.LivenessProbe = p
	case "Readiness":
		c.ReadinessProbe = p
	default:
		st.t.Fatalf("unknown kind %q", kind)
	}
}

// follow changes what is followed of one container.
func (st *stage) follow(name string, words []string) {
	i := slices.IndexFunc(st.targets, func(t Target) bool { return t.Container.Name == name })
	if i < 0 {
		st.targets = append(st.targets, Target{})
		i = len(st.targets) - 1
	}
	t := &st.targets[i]
	t.Container = st.container(name)
	if t.ID == "" {
		t.ID, t.StartedAt, t.IP = name+"-0", time.Now(), "10.0.0.1"
	}
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		switch key {
		case "id":
			*t = Target{Container: t.Container, ID: value, StartedAt: time.Now(), IP: t.IP}
		case "age":
			d, err := time.ParseDuration(value)
			if err != nil {
				st.t.Fatal(err)
			}
			t.StartedAt = time.Now().Add(-d)
		case "was":
			t.Was = State{Started: strings.Contains(value, "started"), Ready: strings.Contains(value, "ready")}
		case "ip":
			t.IP = value
		case "terminating":
			t.Terminating = true
		default:
			st.t.Fatalf("unknown word %q", w)
		}
	}
}

// results notes what changed in them.
func (st *stage) results() {
	now := st.prober.Results(st.pod.UID)
	seen := map[string]string{}
	for id, r := range now {
		words := []string{}
		if r.Started {
			words = append(words, "started")
		}
		if r.Ready {
			words = append(words, "ready")
		}
		if len(words) == 0 {
			words = append(words, "nothing")
		}
		if f := r.Failed; f != nil {
			words = append(words, fmt.Sprintf("failed(%s: %s)", f.Kind, f.Message))
			if f.Grace != nil {
				words = append(words, fmt.Sprintf("grace=%d", *f.Grace))
			}
		}
		if o := r.Obstacle; o != nil {
			words = append(words, fmt.Sprintf("because(%s: %s)", o.Kind, o.Message))
		}
		seen[id] = strings.Join(words, " ")
		if st.last[id] != seen[id] {
			st.note("is %s %s", id, seen[id])
		}
	}
	for id := range st.last {
		if _, ok := seen[id]; !ok {
			st.note("is %s gone", id)
		}
	}
	st.last = seen
}

// flush writes what was noted, what happened at the same time in the order of
// its words, so that goroutines may take any turn.
func (st *stage) flush(out *strings.Builder) {
	st.mu.Lock()
	defer st.mu.Unlock()
	slices.SortStableFunc(st.lines, func(a, b line) int {
		if a.at != b.at {
			return int(a.at - b.at)
		}
		return strings.Compare(a.text, b.text)
	})
	for _, l := range st.lines {
		fmt.Fprintf(out, "  %-6s %s\n", l.at.Round(time.Millisecond), l.text)
	}
	st.lines = nil
}
