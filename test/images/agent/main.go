// Command agent is the program in the test images: one static binary that can
// be any kind of container a test wants. Its first argument is the verb.
//
//	agent pause                     wait; end with 0 on SIGTERM
//	agent stubborn                  wait; ignore SIGTERM
//	agent linger DURATION           wait; end with 0 that long after SIGTERM
//	agent exit CODE [DURATION]      end with CODE (after DURATION)
//	agent crash-once CODE FILE      end with CODE if FILE is missing (and make it), else pause
//	agent serve ADDR DIR            serve files of DIR, and /env, /hostname, over HTTP
//	agent write FILE TEXT...        append TEXT and a newline to FILE
//	agent wait-file FILE            wait until FILE exists, then end with 0
//	agent has FILE                  end with 0 if FILE exists, else with 1 (a probe)
//	agent hook FILE TEXT [WAIT]     append TEXT to FILE, wait until the file WAIT exists (a hook)
//	agent exit-on CODE FILE         end with CODE when FILE exists, and remove it; with 0 on SIGTERM
//	agent env                       print the environment, sorted, then pause
//	agent cat FILE...               print files, then pause
//	agent lines BYTES PER_SECOND    print BYTES as numbered lines of 100 bytes, at that speed
//	agent eat BYTES                 allocate and touch BYTES of memory, then pause
//
// Before the verb, "--record FILE" appends lines to FILE: "start NAME", "term
// NAME" when SIGTERM comes, "end NAME" when the program ends by itself. NAME is
// a variable of the environment. Tests count real process starts by it,
// whatever anybody else believes.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/signal"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	args := os.Args[1:]
	// Signals first: who sees the start recorded may send one.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	note := func(string) {}
	if len(args) >= 2 && args[0] == "--record" {
		file := args[1]
		note = func(what string) { appendLine(file, what+" "+os.Getenv("NAME")) }
		note("start")
		args = args[2:]
	}
	terms := make(chan struct{})
	go func() {
		for range signals {
			note("term")
			terms <- struct{}{}
		}
	}()
	if len(args) == 0 {
		args = []string{"pause"}
	}
	verb, args := args[0], args[1:]
	switch verb {
	case "pause":
		<-terms
	case "stubborn":
		for {
			<-terms
			fmt.Println("SIGTERM ignored")
		}
	case "linger":
		d := duration(arg(args, 0))
		<-terms
		fmt.Println("SIGTERM seen")
		time.Sleep(d)
	case "exit":
		code, err := strconv.Atoi(arg(args, 0))
		check(err)
		if len(args) > 1 {
			select {
			case <-time.After(duration(args[1])):
			case <-terms:
				return
			}
		}
		note("end")
		os.Exit(code)
	case "crash-once":
		code, err := strconv.Atoi(arg(args, 0))
		check(err)
		if _, err := os.Stat(arg(args, 1)); errors.Is(err, fs.ErrNotExist) {
			appendLine(args[1], "crashed")
			os.Exit(code)
		}
		<-terms
	case "serve":
		serve(arg(args, 0), arg(args, 1), terms)
	case "write":
		appendLine(arg(args, 0), strings.Join(args[1:], " "))
	case "wait-file":
		for {
			if _, err := os.Stat(arg(args, 0)); err == nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	case "has":
		if _, err := os.Stat(arg(args, 0)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	case "hook":
		appendLine(arg(args, 0), arg(args, 1))
		for len(args) > 2 {
			if _, err := os.Stat(args[2]); err == nil {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		return
	case "exit-on":
		for {
			if err := os.Remove(arg(args, 1)); err == nil {
				code, err := strconv.Atoi(args[0])
				check(err)
				note("end")
				os.Exit(code)
			}
			select {
			case <-terms:
				note("end")
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	case "env":
		fmt.Println(environment())
		<-terms
	case "cat":
		for _, f := range args {
			b, err := os.ReadFile(f)
			if err != nil {
				fmt.Println(err)
			}
			os.Stdout.Write(b)
		}
		<-terms
	case "lines":
		bytes, err := strconv.Atoi(arg(args, 0))
		check(err)
		speed, err := strconv.Atoi(arg(args, 1))
		check(err)
		printLines(bytes, speed)
	case "eat":
		n, err := strconv.Atoi(arg(args, 0))
		check(err)
		b := make([]byte, n)
		for i := 0; i < n; i += 4096 {
			b[i] = 1
		}
		fmt.Println("ate", len(b))
		<-terms
	default:
		check(fmt.Errorf("unknown verb %q", verb))
	}
	note("end")
}

// printLines prints in pieces of 64 KiB, which do not end with lines.
func printLines(bytes, perSecond int) {
	const length, piece = 100, 64 << 10
	var buf []byte
	start, line := time.Now(), 0
	for sent := 0; sent < bytes; {
		for len(buf) < piece && (line+1)*length <= bytes {
			buf = fmt.Appendf(buf, "%0*d\n", length-1, line)
			line++
		}
		n := min(piece, len(buf))
		if n == 0 {
			return
		}
		_, err := os.Stdout.Write(buf[:n])
		check(err)
		buf = buf[:copy(buf, buf[n:])]
		sent += n
		time.Sleep(time.Until(start.Add(time.Duration(float64(sent) / float64(perSecond) * float64(time.Second)))))
	}
}

func serve(addr, dir string, term <-chan struct{}) {
	mux := http.NewServeMux()
	mux.Handle("/", http.FileServer(http.Dir(dir)))
	mux.HandleFunc("/env", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, environment()) })
	mux.HandleFunc("/hostname", func(w http.ResponseWriter, _ *http.Request) {
		h, _ := os.Hostname()
		fmt.Fprintln(w, h)
	})
	server := &http.Server{Addr: addr, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		<-term
		server.Close()
	}()
	fmt.Println("serving", dir, "on", addr)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		check(err)
	}
}

func environment() string {
	env := os.Environ()
	sort.Strings(env)
	return strings.Join(env, "\n")
}

// appendLine adds one line in a single write, so that lines of containers
// that share a file never mix.
func appendLine(path, line string) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	check(err)
	_, err = f.WriteString(line + "\n")
	check(err)
	check(f.Close())
}

func arg(args []string, i int) string {
	if i >= len(args) {
		check(fmt.Errorf("argument %d is missing", i+1))
	}
	return args[i]
}

func duration(s string) time.Duration {
	d, err := time.ParseDuration(s)
	check(err)
	return d
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(64)
	}
}
