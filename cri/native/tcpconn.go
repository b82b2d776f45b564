package native

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// tcpConn hands a connected socket to Go's poller.
func tcpConn(fd int) (*net.TCPConn, error) {
	var none unix.Timeval
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &none)
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "forward")
	defer f.Close() // FileConn duplicates it
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("socket is no TCP connection")
	}
	return tcp, nil
}
