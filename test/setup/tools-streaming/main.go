// stream-client drives a streaming URL with Kubernetes' own client library and prints what happened as one line of JSON.
//
//	stream-client exec    -url URL [-proto spdy|ws] [-protocols v4.channel.k8s.io,…] [-stdin-bytes N] [-tty -sizes 80x24,132x50] …
//	stream-client forward -url URL [-proto spdy|ws] -port N [-connections K] [-bytes M]
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"
)

// sink counts, hashes and keeps the beginning of what it is given; from stallAfter bytes on it stalls once.
type sink struct {
	bytes      int64
	head       []byte
	sum        hash.Hash
	stallAfter int64
	stall      time.Duration
}

func newSink() *sink { return &sink{sum: sha256.New(), stallAfter: -1} }

func (s *sink) Write(p []byte) (int, error) {
	s.bytes += int64(len(p))
	s.sum.Write(p)
	if room := 4096 - len(s.head); room > 0 {
		s.head = append(s.head, p[:min(room, len(p))]...)
	}
	if s.stallAfter >= 0 && s.bytes >= s.stallAfter {
		s.stallAfter = -1
		time.Sleep(s.stall)
	}
	return len(p), nil
}

type output struct {
	Bytes  int64  `json:"bytes"`
	Sha256 string `json:"sha256"`
	Head   string `json:"head"`
}

func (s *sink) output() output {
	return output{s.bytes, hex.EncodeToString(s.sum.Sum(nil)), string(s.head)}
}

// pattern is a reproducible stream of bytes: byte i is i*7+i/251 (mod 256).
type pattern struct{ at, end int64 }

func (z *pattern) Read(p []byte) (int, error) {
	if z.at == z.end {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), z.end-z.at))
	for i := range n {
		p[i] = byte((z.at+int64(i))*7 + (z.at+int64(i))/251)
	}
	z.at += int64(n)
	return n, nil
}

// sizes gives the terminal sizes of -sizes, 200 ms apart: the server may leave out those that are overtaken.
type sizes struct{ left []remotecommand.TerminalSize }

func (s *sizes) Next() *remotecommand.TerminalSize {
	if len(s.left) == 0 {
		return nil
	}
	size := s.left[0]
	s.left = s.left[1:]
	time.Sleep(200 * time.Millisecond)
	return &size
}

type execResult struct {
	Stdout output `json:"stdout"`
	Stderr output `json:"stderr"`
	// -1: there was no exit code
	Code  int    `json:"code"`
	Error string `json:"error"`
}

func main() {
	if len(os.Args) < 2 {
		fail(fmt.Errorf("usage: %s exec|forward …", os.Args[0]))
	}
	switch os.Args[1] {
	case "exec":
		runExec(os.Args[2:])
	case "forward":
		runForward(os.Args[2:])
	default:
		fail(fmt.Errorf("unknown command %q", os.Args[1]))
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func must[T any](value T, err error) T {
	if err != nil {
		fail(err)
	}
	return value
}

func print(value any) {
	fmt.Println(string(must(json.Marshal(value))))
}

func hostOf(target string) (*url.URL, *rest.Config) {
	u := must(url.Parse(target))
	// A server under test signs for itself.
	return u, &rest.Config{Host: u.Scheme + "://" + u.Host, TLSClientConfig: rest.TLSClientConfig{Insecure: u.Scheme == "https"}}
}

func runExec(args []string) {
	flags := flag.NewFlagSet("exec", flag.ExitOnError)
	target := flags.String("url", "", "")
	proto := flags.String("proto", "spdy", "")
	protocols := flags.String("protocols", "", "subprotocols, by preference")
	stdinText := flags.String("stdin", "", "")
	stdinBytes := flags.Int64("stdin-bytes", 0, "bytes of the pattern on standard input")
	noStdout := flags.Bool("no-stdout", false, "")
	noStderr := flags.Bool("no-stderr", false, "")
	tty := flags.Bool("tty", false, "")
	sizeList := flags.String("sizes", "", "")
	stallAfter := flags.Int64("stall-after", -1, "bytes of output after which reading stalls once")
	stall := flags.Duration("stall", 0, "")
	timeout := flags.Duration("timeout", 60*time.Second, "")
	flags.Parse(args)

	u, config := hostOf(*target)
	var names []string
	if *protocols != "" {
		names = strings.Split(*protocols, ",")
	}
	var executor remotecommand.Executor
	switch {
	case *proto == "ws" && names == nil:
		executor = must(remotecommand.NewWebSocketExecutor(config, "GET", u.String()))
	case *proto == "ws":
		executor = must(remotecommand.NewWebSocketExecutorForProtocols(config, "GET", u.String(), names...))
	case names == nil:
		executor = must(remotecommand.NewSPDYExecutor(config, "POST", u))
	default:
		transport, upgrader, err := spdy.RoundTripperFor(config)
		if err != nil {
			fail(err)
		}
		executor = must(remotecommand.NewSPDYExecutorForProtocols(transport, upgrader, "POST", u, names...))
	}

	stdout, stderr := newSink(), newSink()
	stdout.stallAfter, stdout.stall = *stallAfter, *stall
	options := remotecommand.StreamOptions{Tty: *tty}
	if !*noStdout {
		options.Stdout = stdout
	}
	if !*noStderr {
		options.Stderr = stderr
	}
	if *stdinBytes > 0 {
		options.Stdin = &pattern{0, *stdinBytes}
	} else if *stdinText != "" {
		options.Stdin = strings.NewReader(*stdinText)
	}
	if *sizeList != "" {
		queue := &sizes{}
		for _, text := range strings.Split(*sizeList, ",") {
			var size remotecommand.TerminalSize
			must(fmt.Sscanf(text, "%dx%d", &size.Width, &size.Height))
			queue.left = append(queue.left, size)
		}
		options.TerminalSizeQueue = queue
	}
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	err := executor.StreamWithContext(ctx, options)
	result := execResult{Stdout: stdout.output(), Stderr: stderr.output(), Code: -1}
	var exit utilexec.CodeExitError
	switch e := err.(type) {
	case nil:
		result.Code = 0
	case utilexec.CodeExitError:
		exit = e
		result.Code = exit.Code
		result.Error = e.Error()
	default:
		result.Error = e.Error()
	}
	print(result)
}

type forwardResult struct {
	// Connections whose bytes came back right.
	Good   int      `json:"good"`
	Errors []string `json:"errors"`
	// What the port forwarder wrote to its error output.
	Said string `json:"said"`
	// How the forwarding ended.
	End string `json:"end"`
}

func runForward(args []string) {
	flags := flag.NewFlagSet("forward", flag.ExitOnError)
	target := flags.String("url", "", "")
	proto := flags.String("proto", "spdy", "")
	port := flags.Int("port", 80, "")
	connections := flags.Int("connections", 1, "at a time")
	size := flags.Int64("bytes", 1<<20, "per connection, to be echoed")
	flags.Parse(args)

	u, config := hostOf(*target)
	var dialer httpstream.Dialer
	if *proto == "ws" {
		dialer = must(portforward.NewSPDYOverWebsocketDialer(u, config))
	} else {
		transport, upgrader, err := spdy.RoundTripperFor(config)
		if err != nil {
			fail(err)
		}
		dialer = spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", u)
	}
	stop, ready, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	var said bytes.Buffer
	forwarder := must(portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", *port)}, stop, ready, io.Discard, &said))
	go func() { done <- forwarder.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-done:
		fail(err)
	}
	local := must(forwarder.GetPorts())[0].Local
	result := forwardResult{}
	var lock sync.Mutex
	var group sync.WaitGroup
	for range *connections {
		group.Add(1)
		go func() {
			defer group.Done()
			err := echo(fmt.Sprintf("127.0.0.1:%d", local), *size)
			lock.Lock()
			defer lock.Unlock()
			if err == nil {
				result.Good++
			} else {
				result.Errors = append(result.Errors, err.Error())
			}
		}()
	}
	group.Wait()
	// A failed connection may end the session, a moment after its own end: told to stop before that, the forwarder would not say so.
	if result.Good < *connections {
		select {
		case err := <-done:
			done <- err
		case <-time.After(5 * time.Second):
		}
	}
	close(stop)
	if err := <-done; err != nil {
		result.End = err.Error()
	}
	result.Said = said.String()
	print(result)
}

// echo sends the pattern, half-closes, and wants it back whole.
func echo(address string, size int64) error {
	conn, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(60 * time.Second))
	go func() {
		io.Copy(conn, &pattern{0, size})
		conn.(*net.TCPConn).CloseWrite()
	}()
	got, want := sha256.New(), sha256.New()
	n, err := io.Copy(got, conn)
	if err != nil {
		return err
	}
	io.Copy(want, &pattern{0, size})
	if n != size || !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		return fmt.Errorf("sent %d bytes, other or fewer came back: %d", size, n)
	}
	return nil
}
