package fill

// Nil points *field at a copy of value when *field is nil.
func Nil[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

// Zero sets *field to value when it holds its type's zero value.
func Zero[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
