// Package garbage collects objects whose owners are gone, and carries out foreground and orphaning deletion.
//
// It watches the metadata of every kind that can be listed, watched and deleted, custom resources included, and keeps who owns
// whom as a graph. One goroutine changes the graph; two pools of workers act on it: one deletes or releases dependents, the
// other orphans them. Nothing is deleted before a look past the cache confirms that the owner is gone.
package garbage
