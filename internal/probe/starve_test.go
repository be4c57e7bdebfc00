package probe

import (
	"os"
	"testing"
	"time"
)

func TestStarved(t *testing.T) {
	const ms = time.Millisecond
	at := time.Unix(100, 0)
	type threads = map[int]threadTime
	for name, c := range map[string]struct {
		before, after threads
		want          bool
	}{
		"hangs":                  {threads{1: {ran: 5 * ms, turns: 3}}, threads{1: {ran: 5 * ms, turns: 3}}, false},
		"waits all the time":     {threads{1: {turns: 3, runnable: true}}, threads{1: {turns: 3, runnable: true}}, true},
		"waited, and slept":      {threads{1: {}}, threads{1: {waited: 200 * ms, ran: 2 * ms, turns: 4}}, true},
		"waited a little":        {threads{1: {}}, threads{1: {waited: 60 * ms, ran: 2 * ms, turns: 4}}, false},
		"works, and waits":       {threads{1: {}}, threads{1: {waited: 250 * ms, ran: 250 * ms, turns: 40}}, false},
		"one works, one waits":   {threads{1: {}, 2: {runnable: true}}, threads{1: {ran: 400 * ms}, 2: {runnable: true}}, false},
		"runnable, had its turn": {threads{1: {turns: 3, runnable: true}}, threads{1: {turns: 9, runnable: true}}, false},
		"only just began":        {threads{}, threads{1: {waited: 400 * ms, runnable: true}}, false},
	} {
		if got := starved(census{at, c.before}, census{at.Add(500 * ms), c.after}); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if starved(census{at: at}, census{at: at}) {
		t.Error("starved in no time")
	}
}

// TestReadThread reads this process; a thread that has just run has had a turn.
func TestReadThread(t *testing.T) {
	thread, err := readThread(os.Getpid())
	if err != nil {
		t.Skipf("the kernel does not count: %v", err)
	}
	if thread.turns == 0 || thread.ran == 0 {
		t.Errorf("got %+v", thread)
	}
}

func FuzzParseSchedstat(f *testing.F) {
	f.Add([]byte("12345 678 9\n"))
	f.Fuzz(func(t *testing.T, text []byte) { _, _ = parseSchedstat(text) })
}
