// Logpump alone reads what a node's containers write and keeps it: in log files of the CRI format, and for those who
// attach. It is a process of its own, small enough never to need a restart, so that agent and containerd can die, hang
// or be replaced while no container stalls and no line is lost. It needs nothing but the standard library.
//
// Nothing is lost or doubled when it is killed itself, at any instant. A container's output lies in a FIFO that the shim
// holds open. For each batch logpump looks without taking (tee(2)), notes in a page of shared memory backed by a file
// how long the log is and will be, appends to the log, and then takes exactly those bytes from the FIFO; the same read
// that takes them overwrites a marker byte in that page. Its successor finds the note, and sees from the log's length
// whether the lines were written and from the marker whether the bytes were taken. A line without its newline stays in
// the FIFO until it ends or reaches 16 KiB.
//
// A second process of the same program, the keeper, holds every FIFO too and does nothing else but start the pump again
// when it dies, as the pump does for it. So a container that ends while the pump is dead loses nothing, and output flows
// again within some 10 ms with no agent there.
//
// Goroutines: one a stream, one a control connection, one an attached client. It never blocks a container on a client or
// on the agent, and never removes a log file.
package main
