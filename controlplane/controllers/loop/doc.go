// Package loop is the frame that every controller stands in: a queue of keys, workers that reconcile one key at a time, and
// the informers whose events say "look again".
//
// Loop.Run starts the workers and returns when all have ended and every event handler has been taken back, so that a
// controller can be stopped and made anew. The package decides nothing and writes nothing.
package loop
