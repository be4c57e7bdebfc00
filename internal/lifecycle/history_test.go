package lifecycle

import (
	"testing"
	"time"
)

// A change that comes while volumes are being brought up to date must not be
// lost: they are brought up to date once more.
func TestChangeDuringMount(t *testing.T) {
	var h History
	now := time.Unix(0, 0)
	key := Key{Kind: Mount}
	h.Begin(Action{Key: key}, now)
	h.Dirty(key)
	h.End(Result{Key: key}, now)
	if h.done(key) {
		t.Error("volumes count as up to date although an object changed while they were mounted")
	}
	h.Begin(Action{Key: key}, now)
	h.End(Result{Key: key}, now)
	if !h.done(key) {
		t.Error("volumes never count as up to date again")
	}
}
