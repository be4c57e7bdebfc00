package preflight

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"k8s.io/klog/v2"
)

// NotifyReady tells systemd that the kubelet runs. Outside of a unit of
// Type=notify it does nothing.
func NotifyReady() error { return notify(daemon.SdNotifyReady) }

// NotifyStopping tells systemd that the kubelet ends on its own account.
func NotifyStopping() error { return notify(daemon.SdNotifyStopping) }

func notify(state string) error {
	if _, err := daemon.SdNotify(false, state); err != nil {
		return fmt.Errorf("notify systemd of %s: %w", state, err)
	}
	return nil
}

// shortestWatchdog is what upstream refuses, too: at half of it the kubelet
// would be busy proving that it lives.
const shortestWatchdog = time.Second

// WatchdogConfig of a Watchdog.
type WatchdogConfig struct {
	// Alive returns an error if the kubelet should be restarted. It gets a
	// deadline of one interval.
	Alive func(ctx context.Context) error

	// send and timeout stand for systemd in tests.
	send    func(state string) error
	timeout func() (time.Duration, error)
}

// Watchdog tells systemd every WatchdogSec/2 that the kubelet lives, as long
// as it does.
type Watchdog struct {
	cfg      WatchdogConfig
	interval time.Duration // 0 if systemd does not watch
}

// NewWatchdog reads what systemd expects from the environment
// (sd_watchdog_enabled(3)). It refuses a WatchdogSec of 1 s and less.
func NewWatchdog(cfg WatchdogConfig) (*Watchdog, error) {
	if cfg.Alive == nil {
		return nil, errors.New("configure watchdog: Alive is missing")
	}
	if cfg.send == nil {
		cfg.send = notify
	}
	if cfg.timeout == nil {
		cfg.timeout = func() (time.Duration, error) { return daemon.SdWatchdogEnabled(false) }
	}
	timeout, err := cfg.timeout()
	if err != nil {
		return nil, fmt.Errorf("configure watchdog: %w", err)
	}
	if timeout != 0 && timeout <= shortestWatchdog {
		return nil, fmt.Errorf("configure watchdog: WatchdogSec is %s, must be more than %s", timeout, shortestWatchdog)
	}
	return &Watchdog{cfg: cfg, interval: timeout / 2}, nil
}

// Enabled reports whether systemd watches this process.
func (w *Watchdog) Enabled() bool { return w.interval > 0 }

// Run notifies systemd until ctx ends. A failed check or a failed message is
// logged; if they go on, systemd ends the process.
func (w *Watchdog) Run(ctx context.Context) error {
	if !w.Enabled() {
		<-ctx.Done()
		return nil
	}
	ticker := time.NewTicker(w.interval)
	defer ticker.Stop()
	var check chan error // of a check that has not returned yet
	for {
		check = w.beat(ctx, check)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// beat runs one check and reports its success. A check that outlasts the
// interval counts as failed; it is handed on to the next beat, so that checks
// never pile up.
func (w *Watchdog) beat(ctx context.Context, check chan error) chan error {
	logger := klog.FromContext(ctx)
	deadline, cancel := context.WithTimeout(ctx, w.interval)
	defer cancel()
	if check == nil {
		check = make(chan error, 1)
		go func() { check <- w.cfg.Alive(deadline) }()
	}
	var err error
	select {
	case err = <-check:
		check = nil
	case <-deadline.Done():
		err = fmt.Errorf("check whether the kubelet lives: %w", deadline.Err())
	}
	switch {
	case ctx.Err() != nil:
	case err != nil:
		logger.Error(err, "Not telling systemd's watchdog that the kubelet lives")
	default:
		if err = w.cfg.send(daemon.SdNotifyWatchdog); err != nil {
			logger.Error(err, "Systemd's watchdog could not be told that the kubelet lives")
		}
	}
	return check
}
