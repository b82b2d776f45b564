package scheme

import (
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
)

// addEventConversions registers events.k8s.io/v1 <-> core/v1: the same fields under other names.
func addEventConversions(s *runtime.Scheme) error {
	return addPairs(s,
		pair((*corev1.Event)(nil), (*eventsv1.Event)(nil), eventToV1),
		pair((*eventsv1.Event)(nil), (*corev1.Event)(nil), eventFromV1),
		pair((*corev1.EventList)(nil), (*eventsv1.EventList)(nil), func(in *corev1.EventList, out *eventsv1.EventList) error {
			out.ListMeta = in.ListMeta
			return each(in.Items, &out.Items, eventToV1)
		}),
		pair((*eventsv1.EventList)(nil), (*corev1.EventList)(nil), func(in *eventsv1.EventList, out *corev1.EventList) error {
			out.ListMeta = in.ListMeta
			return each(in.Items, &out.Items, eventFromV1)
		}),
	)
}

func eventToV1(in *corev1.Event, out *eventsv1.Event) error {
	out.ObjectMeta = in.ObjectMeta
	out.EventTime = in.EventTime
	out.Series = nil
	if in.Series != nil {
		out.Series = &eventsv1.EventSeries{Count: in.Series.Count, LastObservedTime: in.Series.LastObservedTime}
	}
	out.ReportingController = in.ReportingController
	out.ReportingInstance = in.ReportingInstance
	out.Action = in.Action
	out.Reason = in.Reason
	out.Regarding = in.InvolvedObject
	out.Related = in.Related
	out.Note = in.Message
	out.Type = in.Type
	out.DeprecatedSource = in.Source
	out.DeprecatedFirstTimestamp = in.FirstTimestamp
	out.DeprecatedLastTimestamp = in.LastTimestamp
	out.DeprecatedCount = in.Count
	return nil
}

func eventFromV1(in *eventsv1.Event, out *corev1.Event) error {
	out.ObjectMeta = in.ObjectMeta
	out.EventTime = in.EventTime
	out.Series = nil
	if in.Series != nil {
		out.Series = &corev1.EventSeries{Count: in.Series.Count, LastObservedTime: in.Series.LastObservedTime}
	}
	out.ReportingController = in.ReportingController
	out.ReportingInstance = in.ReportingInstance
	out.Action = in.Action
	out.Reason = in.Reason
	out.InvolvedObject = in.Regarding
	out.Related = in.Related
	out.Message = in.Note
	out.Type = in.Type
	out.Source = in.DeprecatedSource
	out.FirstTimestamp = in.DeprecatedFirstTimestamp
	out.LastTimestamp = in.DeprecatedLastTimestamp
	out.Count = in.DeprecatedCount
	return nil
}

// conversionPair is one direction of a conversion between two Go types.
type conversionPair struct {
	from, to any
	fn       conversion.ConversionFunc
}

func pair[A, B any](from *A, to *B, fn func(*A, *B) error) conversionPair {
	return conversionPair{from, to, func(a, b any, _ conversion.Scope) error { return fn(a.(*A), b.(*B)) }}
}

func addPairs(s *runtime.Scheme, pairs ...conversionPair) error {
	for _, p := range pairs {
		if err := s.AddConversionFunc(p.from, p.to, p.fn); err != nil {
			return err
		}
	}
	return nil
}

// each converts a list's items; an empty list stays empty and a nil one nil.
func each[A, B any](in []A, out *[]B, fn func(*A, *B) error) error {
	*out = nil
	if in == nil {
		return nil
	}
	*out = make([]B, len(in))
	for i := range in {
		if err := fn(&in[i], &(*out)[i]); err != nil {
			return err
		}
	}
	return nil
}
