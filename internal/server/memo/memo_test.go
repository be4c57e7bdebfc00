package memo

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func newMemo() *Memo[string, int] {
	return New[string, int](Config{Entries: 2, InFlight: 2, Timeout: 10 * time.Second})
}

func answer(value int, life time.Duration, err error, asked *int) func(context.Context) (int, time.Duration, error) {
	return func(context.Context) (int, time.Duration, error) {
		*asked++
		return value, life, err
	}
}

func TestAnswersAreRememberedForTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, asked := newMemo(), 0
		for range 3 {
			if v, err := m.Do(t.Context(), "a", answer(7, time.Minute, nil, &asked)); v != 7 || err != nil {
				t.Fatalf("%d, %v", v, err)
			}
		}
		if asked != 1 {
			t.Errorf("asked %d times within the answer's life", asked)
		}
		time.Sleep(time.Minute)
		if _, ok := m.Get("a"); ok {
			t.Error("an answer outlives its time")
		}
		_, _ = m.Do(t.Context(), "a", answer(7, time.Minute, nil, &asked))
		if asked != 2 {
			t.Errorf("asked %d times, want again after its life", asked)
		}
	})
}

func TestErrorsAreNotRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, asked := newMemo(), 0
		for range 2 {
			if _, err := m.Do(t.Context(), "a", answer(0, time.Minute, errors.New("away"), &asked)); err == nil {
				t.Error("no error")
			}
		}
		if asked != 2 {
			t.Errorf("asked %d times, want each time", asked)
		}
	})
}

func TestLeastRecentlyUsedGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, asked := newMemo(), 0
		for _, key := range []string{"a", "b", "a", "c"} {
			_, _ = m.Do(t.Context(), key, answer(1, time.Minute, nil, &asked))
		}
		for key, want := range map[string]bool{"a": true, "b": false, "c": true} {
			if _, ok := m.Get(key); ok != want {
				t.Errorf("%s remembered: %t", key, ok)
			}
		}
		if len(m.entries) != m.recent.Len() {
			t.Errorf("%d entries, %d in order", len(m.entries), m.recent.Len())
		}
	})
}

func TestOneQuestionForAllWhoAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, asked := newMemo(), 0
		slow := func(context.Context) (int, time.Duration, error) {
			asked++
			time.Sleep(time.Second)
			return 3, time.Minute, nil
		}
		impatient, cancel := context.WithCancel(t.Context())
		first := make(chan error)
		go func() {
			_, err := m.Do(impatient, "a", slow)
			first <- err
		}()
		synctest.Wait()
		second := make(chan int)
		go func() {
			v, _ := m.Do(t.Context(), "a", slow)
			second <- v
		}()
		synctest.Wait()
		cancel()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("who left got %v", err)
		}
		if v := <-second; v != 3 || asked != 1 {
			t.Errorf("who stayed got %d, asked %d times", v, asked)
		}
	})
}

func TestOpenQuestionsAreBoundedAndEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemo()
		hangs := func(ctx context.Context) (int, time.Duration, error) {
			<-ctx.Done()
			return 0, 0, ctx.Err()
		}
		results := make(chan error, 2)
		for _, key := range []string{"a", "b"} {
			go func() {
				_, err := m.Do(t.Context(), key, hangs)
				results <- err
			}()
		}
		synctest.Wait()
		if _, err := m.Do(t.Context(), "c", hangs); !errors.Is(err, ErrBusy) {
			t.Errorf("a third question: %v", err)
		}
		for range 2 {
			if err := <-results; !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a question that hangs ends with %v", err)
			}
		}
		if _, err := m.Do(t.Context(), "c", answer(1, 0, nil, new(int))); err != nil {
			t.Errorf("after they ended: %v", err)
		}
	})
}
