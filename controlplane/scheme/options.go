package scheme

import (
	"fmt"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
)

// addOptionsConversions registers query string -> *Options for the subresources that take options in the URL.
func addOptionsConversions(s *runtime.Scheme) error {
	for _, to := range []runtime.Object{
		&corev1.PodLogOptions{}, &corev1.PodExecOptions{}, &corev1.PodAttachOptions{}, &corev1.PodPortForwardOptions{},
		&corev1.PodProxyOptions{}, &corev1.NodeProxyOptions{}, &corev1.ServiceProxyOptions{},
	} {
		fn := func(from, into any, _ conversion.Scope) error {
			return decodeQuery(*from.(*url.Values), into)
		}
		if err := s.AddConversionFunc((*url.Values)(nil), to, fn); err != nil {
			return err
		}
	}
	return nil
}

// decodeQuery fills the fields of the struct that into points to from the query parameters named by their JSON tags.
// Parameters without a field are ignored. As upstream: a boolean that is present without a value, or with any value
// but "false" and "0", is true; a scalar takes the first value given.
func decodeQuery(query url.Values, into any) error {
	v := reflect.ValueOf(into).Elem()
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		values, ok := query[name]
		if name == "" || !ok || len(values) == 0 {
			continue
		}
		if err := decodeField(values, v.Field(i)); err != nil {
			return fmt.Errorf("query parameter %q: %w", name, err)
		}
	}
	return nil
}

var timeType = reflect.TypeFor[metav1.Time]()

func decodeField(values []string, f reflect.Value) error {
	switch {
	case f.Kind() == reflect.Pointer:
		if values[0] == "" && f.Type().Elem().Kind() != reflect.String {
			return nil
		}
		p := reflect.New(f.Type().Elem())
		if err := decodeField(values, p.Elem()); err != nil {
			return err
		}
		f.Set(p)
	case f.Type() == timeType:
		t, err := time.Parse(time.RFC3339, values[0])
		if err != nil {
			return fmt.Errorf("want an RFC 3339 time: %w", err)
		}
		f.Set(reflect.ValueOf(metav1.NewTime(t)))
	case f.Kind() == reflect.Bool:
		f.SetBool(values[0] != "0" && !strings.EqualFold(values[0], "false"))
	case f.Kind() == reflect.String:
		f.SetString(values[0])
	case f.Kind() == reflect.Int64, f.Kind() == reflect.Int32:
		n, err := strconv.ParseInt(values[0], 10, f.Type().Bits())
		if err != nil {
			return fmt.Errorf("want an integer: %w", err)
		}
		f.SetInt(n)
	case f.Kind() == reflect.Slice && f.Type().Elem().Kind() == reflect.String:
		f.Set(reflect.ValueOf(append([]string(nil), values...)))
	case f.Kind() == reflect.Slice && f.Type().Elem().Kind() == reflect.Int32:
		var out []int32
		for _, value := range values {
			// "ports=1,2" and "ports=1&ports=2" are both in use.
			for part := range strings.SplitSeq(value, ",") {
				n, err := strconv.ParseInt(part, 10, 32)
				if err != nil {
					return fmt.Errorf("want integers: %w", err)
				}
				out = append(out, int32(n))
			}
		}
		f.Set(reflect.ValueOf(out))
	default:
		return fmt.Errorf("no conversion to %s", f.Type())
	}
	return nil
}
