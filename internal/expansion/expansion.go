package expansion

import "strings"

// Expand replaces every $(NAME) in s by what lookup answers; "$$" stands for one "$" and so "$$(NAME)" stays literally
// "$(NAME)"; a reference that lookup does not know, and a "$" before anything else, stay as they are. Nothing is expanded
// twice (source: core/v1 EnvVar.value).
func Expand(s string, lookup func(name string) (string, bool)) string {
	out, _ := expand(s, lookup)
	return out
}

// ExpandStrict is Expand, and also names the references that lookup did not know, in order.
func ExpandStrict(s string, lookup func(name string) (string, bool)) (string, []string) {
	return expand(s, lookup)
}

func expand(s string, lookup func(string) (string, bool)) (string, []string) {
	i := strings.IndexByte(s, '$')
	if i < 0 {
		return s, nil
	}
	var b strings.Builder
	var missing []string
	for i >= 0 {
		b.WriteString(s[:i])
		rest := s[i+1:]
		switch {
		case strings.HasPrefix(rest, "$"):
			b.WriteByte('$')
			s = rest[1:]
		case strings.HasPrefix(rest, "("):
			end := strings.IndexByte(rest, ')')
			if end < 0 {
				// No reference: the rest is text, but later "$$" are still escapes.
				b.WriteString("$(")
				s = rest[1:]
				break
			}
			name := rest[1:end]
			if v, ok := lookup(name); ok {
				b.WriteString(v)
			} else {
				missing = append(missing, name)
				b.WriteString("$(" + name + ")")
			}
			s = rest[end+1:]
		default:
			b.WriteByte('$')
			s = rest
		}
		i = strings.IndexByte(s, '$')
	}
	b.WriteString(s)
	return b.String(), missing
}
