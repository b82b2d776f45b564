// Package embedded carries the runtime's built parts inside the reeve binary: the pause and demo images and the logpump
// program, made by internal/imagebuild into files/, which is not under version control. A binary compiled before that
// has none of them, and each function then says what to run. It starts nothing and writes nothing but the file that
// ExtractLogpump is asked for.
package embedded
