// Package ttlafterfinished deletes Jobs some time after they ended, where they ask for it. One loop; a Job is looked at when it
// changes and when its time is up. It writes nothing but the deletion.
package ttlafterfinished
