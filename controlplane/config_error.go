package controlplane

// ConfigError says that the configuration, or what it names on the host, must be mended before another start can work.
type ConfigError struct{ Err error }

func (e *ConfigError) Error() string { return e.Err.Error() }
func (e *ConfigError) Unwrap() error { return e.Err }
