// Command pod is the one program of the small image that a test cluster brings along: it holds a pod's
// sandbox (and a namespace) open, and gives tests a server and a client without a shell.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// wait sleeps until it is told to end. As the first process of a PID namespace it is also the parent of
// every orphan, and must collect them.
func wait() {
	fmt.Println("ready")
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for received := range signals {
		if received != syscall.SIGCHLD {
			return
		}
		for {
			if child, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); child <= 0 || err != nil {
				break
			}
		}
	}
}

func serve(address string) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	log.Printf("serving on %s", address)
	return http.ListenAndServe(address, http.HandlerFunc(func(response http.ResponseWriter, request *http.Request) {
		log.Printf("%s %s", request.Method, request.URL.Path)
		fmt.Fprintln(response, host)
	}))
}

func get(url string) error {
	response, err := (&http.Client{Timeout: 5 * time.Second}).Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(os.Stdout, response.Body); err != nil {
		return err
	}
	if response.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s answered %s", url, response.Status)
	}
	return nil
}

func lookup(name string) error {
	addresses, err := net.LookupHost(name)
	for _, address := range addresses {
		fmt.Println(address)
	}
	return err
}

func write(path string) error {
	return os.WriteFile(path, []byte("written\n"), 0o644)
}

func burn(share string) error {
	busy, err := time.ParseDuration(share)
	if err != nil {
		return err
	}
	for start := time.Now(); ; start = time.Now() {
		for time.Since(start) < busy {
		}
		time.Sleep(time.Second - busy)
	}
}

func main() {
	programs := map[string]func(string) error{
		"burn": burn, "get": get, "lookup": lookup, "serve": serve, "write": write,
	}
	switch {
	case len(os.Args) == 1:
		wait()
	case len(os.Args) == 3 && programs[os.Args[1]] != nil:
		if err := programs[os.Args[1]](os.Args[2]); err != nil {
			log.Fatal(err)
		}
	default:
		log.Fatal("usage: pod [serve ADDRESS | get URL | lookup NAME | write FILE | burn CPU-TIME-PER-SECOND]")
	}
}
