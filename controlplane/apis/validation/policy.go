package validation

import (
	"regexp"
	"strings"
	"sync"

	"github.com/google/cel-go/cel"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	validatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/cel/environment"
)

// Bounds of policies, in characters.
const (
	maxAuditAnnotations = 20
	maxAuditExpression  = 5 * 1024
	maxAuditKey         = 63
	maxPolicyMessage    = 4096
)

// environments builds the CEL environment once, on the first policy or match condition: it is large.
var environments = sync.OnceValue(func() *environment.EnvSet {
	return environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion())
})

var plainCompiler = sync.OnceValue(func() plugincel.Compiler { return plugincel.NewCompiler(environments()) })

func expression(r *report, p *field.Path, c plugincel.Compiler, e plugincel.ExpressionAccessor, vars plugincel.OptionalVariableDeclarations) {
	text := e.GetExpression()
	if strings.TrimSpace(text) == "" {
		r.required(p, "")
		return
	}
	if result := c.CompileCELExpression(e, vars, environment.NewExpressions); result.Error != nil {
		r.invalid(p, text, result.Error.Detail)
	}
}

// matchConditions checks conditions that are evaluated before a webhook or policy is.
func matchConditions(r *report, p *field.Path, list []admissionv1.MatchCondition) {
	if len(list) > maxMatchConditions {
		r.add(field.TooMany(p, len(list), maxMatchConditions))
	}
	names := sets.New[string]()
	for i := range list {
		c, at := &list[i], p.Index(i)
		conditionName(r, at.Child("name"), c.Name, names)
		expression(r, at.Child("expression"), plainCompiler(), (*matchconditions.MatchCondition)(c), plugincel.OptionalVariableDeclarations{HasAuthorizer: true})
	}
}

func conditionName(r *report, p *field.Path, name string, seen sets.Set[string]) {
	if name == "" {
		r.required(p, "")
		return
	}
	r.each(p, name, validation.IsQualifiedName(name))
	if seen.Has(name) {
		r.duplicate(p, name)
	}
	seen.Insert(name)
}

// celIdentifier is what a variable can be named.
var celIdentifier = regexp.MustCompile(`^[_a-zA-Z][_a-zA-Z0-9]*$`)

// compiler makes a compiler that knows the policy's variables, which it checks.
func compiler(r *report, p *field.Path, list []admissionv1.Variable, vars plugincel.OptionalVariableDeclarations) plugincel.Compiler {
	c, err := plugincel.NewCompositedCompiler(environments())
	if err != nil {
		r.add(field.InternalError(p, err))
		return plainCompiler()
	}
	names := sets.New[string]()
	for i := range list {
		v, at := &list[i], p.Index(i)
		switch {
		case v.Name == "":
			r.required(at.Child("name"), "name is not specified")
		case !celIdentifier.MatchString(v.Name):
			r.invalid(at.Child("name"), v.Name, "name is not a valid CEL identifier")
		case names.Has(v.Name):
			r.duplicate(at.Child("name"), v.Name)
		}
		names.Insert(v.Name)
		if strings.TrimSpace(v.Expression) == "" {
			r.required(at.Child("expression"), "expression is not specified")
			continue
		}
		if result := c.CompileAndStoreVariable(variable{v}, vars, environment.NewExpressions); result.Error != nil {
			r.invalid(at.Child("expression"), v.Expression, result.Error.Detail)
		}
	}
	return c
}

// variable shows a policy's variable to the compiler.
type variable struct{ *admissionv1.Variable }

func (v variable) GetExpression() string    { return v.Expression }
func (v variable) ReturnTypes() []*cel.Type { return []*cel.Type{cel.AnyType, cel.DynType} }
func (v variable) GetName() string          { return v.Name }

func validatingPolicyCreate(v *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec")
	s := &v.Spec
	optionalOneOf(r, p.Child("failurePolicy"), s.FailurePolicy, admissionv1.Ignore, admissionv1.Fail)
	if s.FailurePolicy == nil {
		r.required(p.Child("failurePolicy"), "")
	}
	paramKind(r, p.Child("paramKind"), s.ParamKind)
	constraints(r, p.Child("matchConstraints"), s.MatchConstraints)
	matchConditions(r, p.Child("matchConditions"), s.MatchConditions)
	vars := plugincel.OptionalVariableDeclarations{HasParams: s.ParamKind != nil, HasAuthorizer: true}
	c := compiler(r, p.Child("variables"), s.Variables, vars)
	if len(s.Validations) == 0 && len(s.AuditAnnotations) == 0 {
		r.required(p.Child("validations"), "validations or auditAnnotations must contain at least one item")
		r.required(p.Child("auditAnnotations"), "validations or auditAnnotations must contain at least one item")
	}
	for i, rule := range s.Validations {
		at := p.Child("validations").Index(i)
		expression(r, at.Child("expression"), c, &validatingpolicy.ValidationCondition{Expression: rule.Expression}, vars)
		if rule.MessageExpression != "" {
			quiet := plugincel.OptionalVariableDeclarations{HasParams: s.ParamKind != nil}
			expression(r, at.Child("messageExpression"), c, &validatingpolicy.MessageExpressionCondition{MessageExpression: rule.MessageExpression}, quiet)
		}
		switch trimmed := strings.TrimSpace(rule.Message); {
		case rule.Message != "" && trimmed == "":
			r.invalid(at.Child("message"), rule.Message, "message must be non-empty if specified")
		case strings.ContainsAny(trimmed, "\n"):
			r.invalid(at.Child("message"), rule.Message, "message must not contain line breaks")
		case len(rule.Message) > maxPolicyMessage:
			r.add(field.TooLong(at.Child("message"), rule.Message, maxPolicyMessage))
		case strings.ContainsAny(rule.Expression, "\n") && rule.Message == "":
			r.required(at.Child("message"), "message must be specified if expression contains line breaks")
		}
		if rule.Reason != nil {
			optionalOneOf(r, at.Child("reason"), rule.Reason, metav1.StatusReasonForbidden, metav1.StatusReasonInvalid, metav1.StatusReasonRequestEntityTooLarge, metav1.StatusReasonUnauthorized)
		}
	}
	auditAnnotations(r, p.Child("auditAnnotations"), v, c, vars)
	return r.list
}

func auditAnnotations(r *report, p *field.Path, v *admissionv1.ValidatingAdmissionPolicy, c plugincel.Compiler, vars plugincel.OptionalVariableDeclarations) {
	if n := len(v.Spec.AuditAnnotations); n > maxAuditAnnotations {
		r.invalid(p, v.Spec.AuditAnnotations, "must not have more than 20 auditAnnotations")
	}
	keys := sets.New[string]()
	for i, a := range v.Spec.AuditAnnotations {
		at := p.Index(i)
		switch {
		case a.Key == "":
			r.required(at.Child("key"), "")
		default:
			r.each(at.Child("key"), a.Key, validation.IsQualifiedName(v.Name+"/"+a.Key))
			if len(a.Key) > maxAuditKey {
				r.invalid(at.Child("key"), a.Key, "must be no more than 63 characters")
			}
		}
		if keys.Has(a.Key) {
			r.duplicate(at.Child("key"), a.Key)
		}
		keys.Insert(a.Key)
		if len(a.ValueExpression) > maxAuditExpression {
			r.required(at.Child("valueExpression"), "must not exceed 5kb in length")
			continue
		}
		expression(r, at.Child("valueExpression"), c, &validatingpolicy.AuditAnnotationCondition{ValueExpression: a.ValueExpression}, vars)
	}
}

func paramKind(r *report, p *field.Path, k *admissionv1.ParamKind) {
	if k == nil {
		return
	}
	if k.APIVersion == "" {
		r.required(p.Child("apiVersion"), "")
	} else if gv, err := schema.ParseGroupVersion(k.APIVersion); err != nil {
		r.invalid(p.Child("apiVersion"), k.APIVersion, err.Error())
	} else {
		if gv.Group != "" {
			dnsSubdomain(r, p.Child("apiVersion"), gv.Group)
		}
		r.each(p.Child("apiVersion"), gv.Version, validation.IsDNS1035Label(gv.Version))
	}
	if k.Kind == "" {
		r.required(p.Child("kind"), "")
	} else {
		r.each(p.Child("kind"), k.Kind, validation.IsDNS1035Label(strings.ToLower(k.Kind)))
	}
}

// constraints checks what a policy is about, which it must say.
func constraints(r *report, p *field.Path, m *admissionv1.MatchResources) {
	if m == nil {
		r.required(p, "")
		return
	}
	matchResources(r, p, m)
	if len(m.ResourceRules) == 0 {
		r.required(p.Child("resourceRules"), "")
	}
}

func matchResources(r *report, p *field.Path, m *admissionv1.MatchResources) {
	if m.MatchPolicy == nil {
		r.required(p.Child("matchPolicy"), "")
	}
	optionalOneOf(r, p.Child("matchPolicy"), m.MatchPolicy, admissionv1.Exact, admissionv1.Equivalent)
	if m.NamespaceSelector == nil {
		r.required(p.Child("namespaceSelector"), "")
	}
	if m.ObjectSelector == nil {
		r.required(p.Child("objectSelector"), "")
	}
	selector(r, p.Child("namespaceSelector"), m.NamespaceSelector)
	selector(r, p.Child("objectSelector"), m.ObjectSelector)
	for name, rules := range sorted(map[string][]admissionv1.NamedRuleWithOperations{"resourceRules": m.ResourceRules, "excludeResourceRules": m.ExcludeResourceRules}) {
		for i := range rules {
			at := p.Child(name).Index(i)
			webhookRule(r, at, &rules[i].RuleWithOperations)
			seen := sets.New[string]()
			for j, n := range rules[i].ResourceNames {
				segment(r, at.Child("resourceNames").Index(j), n)
				if seen.Has(n) {
					r.duplicate(at.Child("resourceNames").Index(j), n)
				}
				seen.Insert(n)
			}
		}
	}
}

func paramRef(r *report, p *field.Path, ref *admissionv1.ParamRef) {
	if ref == nil {
		return
	}
	switch {
	case ref.Name != "" && ref.Selector != nil:
		r.forbidden(p.Child("name"), "name and selector are mutually exclusive")
	case ref.Name == "" && ref.Selector == nil:
		r.required(p, "one of name or selector must be specified")
	case ref.Name != "":
		segment(r, p.Child("name"), ref.Name)
	default:
		selector(r, p.Child("selector"), ref.Selector)
	}
	if ref.ParameterNotFoundAction == nil {
		r.required(p.Child("parameterNotFoundAction"), "")
	}
	optionalOneOf(r, p.Child("parameterNotFoundAction"), ref.ParameterNotFoundAction, admissionv1.DenyAction, admissionv1.AllowAction)
}

func validatingBindingCreate(b *admissionv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec")
	requiredSubdomain(r, p.Child("policyName"), b.Spec.PolicyName)
	paramRef(r, p.Child("paramRef"), b.Spec.ParamRef)
	if b.Spec.MatchResources != nil {
		matchResources(r, p.Child("matchResouces"), b.Spec.MatchResources)
	}
	at := p.Child("validationActions")
	if len(b.Spec.ValidationActions) == 0 {
		r.required(at, "")
	}
	seen := sets.New[admissionv1.ValidationAction]()
	for i, a := range b.Spec.ValidationActions {
		oneOf(r, at.Index(i), a, true, admissionv1.Deny, admissionv1.Warn, admissionv1.Audit)
		if seen.Has(a) {
			r.duplicate(at.Index(i), a)
		}
		seen.Insert(a)
	}
	if seen.HasAll(admissionv1.Deny, admissionv1.Warn) {
		r.invalid(at, b.Spec.ValidationActions, "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)")
	}
	return r.list
}

func mutatingPolicyCreate(m *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec")
	s := &m.Spec
	if s.FailurePolicy == nil {
		r.required(p.Child("failurePolicy"), "")
	}
	optionalOneOf(r, p.Child("failurePolicy"), s.FailurePolicy, admissionv1.Ignore, admissionv1.Fail)
	paramKind(r, p.Child("paramKind"), s.ParamKind)
	constraints(r, p.Child("matchConstraints"), s.MatchConstraints)
	matchConditions(r, p.Child("matchConditions"), s.MatchConditions)
	oneOf(r, p.Child("reinvocationPolicy"), s.ReinvocationPolicy, true, admissionv1.NeverReinvocationPolicy, admissionv1.IfNeededReinvocationPolicy)
	vars := plugincel.OptionalVariableDeclarations{HasParams: s.ParamKind != nil, HasAuthorizer: true, HasPatchTypes: true}
	c := compiler(r, p.Child("variables"), s.Variables, vars)
	if len(s.Mutations) == 0 {
		r.required(p.Child("mutations"), "mutations must contain at least one item")
	}
	for i, mutation := range s.Mutations {
		at := p.Child("mutations").Index(i)
		oneOf(r, at.Child("patchType"), mutation.PatchType, true, admissionv1.PatchTypeApplyConfiguration, admissionv1.PatchTypeJSONPatch)
		apply, json := mutation.ApplyConfiguration, mutation.JSONPatch
		switch mutation.PatchType {
		case admissionv1.PatchTypeApplyConfiguration:
			if json != nil {
				r.forbidden(at.Child("jsonPatch"), "may not be set when patchType is ApplyConfiguration")
			}
			if apply == nil {
				r.required(at.Child("applyConfiguration"), "must be specified when patchType is ApplyConfiguration")
				continue
			}
			expression(r, at.Child("applyConfiguration", "expression"), c, &patch.ApplyConfigurationCondition{Expression: apply.Expression}, vars)
		case admissionv1.PatchTypeJSONPatch:
			if apply != nil {
				r.forbidden(at.Child("applyConfiguration"), "may not be set when patchType is JSONPatch")
			}
			if json == nil {
				r.required(at.Child("jsonPatch"), "must be specified when patchType is JSONPatch")
				continue
			}
			expression(r, at.Child("jsonPatch", "expression"), c, &patch.JSONPatchCondition{Expression: json.Expression}, vars)
		}
	}
	return r.list
}

func mutatingBindingCreate(b *admissionv1.MutatingAdmissionPolicyBinding) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec")
	requiredSubdomain(r, p.Child("policyName"), b.Spec.PolicyName)
	paramRef(r, p.Child("paramRef"), b.Spec.ParamRef)
	if b.Spec.MatchResources != nil {
		matchResources(r, p.Child("matchResources"), b.Spec.MatchResources)
	}
	return r.list
}
