// Command health is a program that is well until a file says otherwise, and
// that can be asked in every way a probe knows.
//
//	health serve FILE [DURATION]
//	                      be well while FILE does not exist: HTTP on 8080 (/healthz,
//	                      /moved to another host, /hang), HTTPS on 8443, gRPC on 9090,
//	                      TCP on 7070; end that long after SIGTERM
//	health check FILE     end with 0 if FILE does not exist, else with 1
//	health family FILE    start a child that adds a line to FILE ten times a second,
//	                      and wait for ever; neither ends on SIGTERM
//	health tick FILE      be that child
//	health tell FILE TEXT add a line to FILE
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func main() {
	if len(os.Args) < 3 {
		check(errors.New("usage: health serve|check|family|tick|tell FILE"))
	}
	file := os.Args[2]
	switch os.Args[1] {
	case "serve":
		serve(file)
		if len(os.Args) > 3 {
			d, err := time.ParseDuration(os.Args[3])
			check(err)
			time.Sleep(d)
		}
	case "check":
		if ill(file) {
			fmt.Println("ill:", file, "exists")
			os.Exit(1)
		}
		fmt.Println("well")
	case "family":
		signal.Ignore(syscall.SIGTERM)
		child := exec.Command("/proc/self/exe", "tick", file)
		child.Stdout = os.Stdout // holds the output open
		check(child.Start())
		check(child.Wait())
	case "tick":
		signal.Ignore(syscall.SIGTERM)
		for {
			tell(file, "tick")
			time.Sleep(100 * time.Millisecond)
		}
	case "tell":
		tell(file, os.Args[3])
	default:
		check(fmt.Errorf("unknown verb %q", os.Args[1]))
	}
}

func ill(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

func tell(file, line string) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	check(err)
	_, err = f.WriteString(line + "\n")
	check(err)
	check(f.Close())
}

func serve(file string) {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)

	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {
		if ill(file) {
			w.WriteHeader(http.StatusInternalServerError)
		}
		fmt.Fprintln(w, r.Host, r.UserAgent())
	})
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://elsewhere.invalid/", http.StatusFound)
	})
	mux.HandleFunc("/hang", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	go func() { check(http.ListenAndServe(":8080", mux)) }()
	secure := &http.Server{Addr: ":8443", Handler: mux, TLSConfig: &tls.Config{Certificates: []tls.Certificate{selfSigned()}}}
	go func() { check(secure.ListenAndServeTLS("", "")) }()

	l, err := net.Listen("tcp", ":9090")
	check(err)
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, service{file: file})
	go func() { check(server.Serve(l)) }()

	go listen(file)
	<-term
}

type service struct {
	grpc_health_v1.UnimplementedHealthServer
	file string
}

func (s service) Check(context.Context, *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	status := grpc_health_v1.HealthCheckResponse_SERVING
	if ill(s.file) {
		status = grpc_health_v1.HealthCheckResponse_NOT_SERVING
	}
	return &grpc_health_v1.HealthCheckResponse{Status: status}, nil
}

// listen keeps a TCP port open while the program is well.
func listen(file string) {
	for {
		if ill(file) {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		l, err := net.Listen("tcp", ":7070")
		check(err)
		go func() {
			for !ill(file) {
				time.Sleep(100 * time.Millisecond)
			}
			l.Close()
		}()
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			c.Close()
		}
	}
}

func selfSigned() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(240 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	check(err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "health:", err)
		os.Exit(64)
	}
}
