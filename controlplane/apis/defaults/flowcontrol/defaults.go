package flowcontrol

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"

	"github.com/reevehq/reeve/controlplane/apis/defaults/fill"
)

// SetDefaults_FlowSchemaSpec fills the precedence.
func SetDefaults_FlowSchemaSpec(s *flowcontrolv1.FlowSchemaSpec) {
	fill.Zero(&s.MatchingPrecedence, 1000)
}

// SetDefaults_LimitedPriorityLevelConfiguration fills the shares of a limited level; it lends none.
func SetDefaults_LimitedPriorityLevelConfiguration(c *flowcontrolv1.LimitedPriorityLevelConfiguration) {
	fill.Nil(&c.NominalConcurrencyShares, 30)
	fill.Nil(&c.LendablePercent, 0)
}

// SetDefaults_ExemptPriorityLevelConfiguration fills the shares of an exempt level: none reserved, none lent.
func SetDefaults_ExemptPriorityLevelConfiguration(c *flowcontrolv1.ExemptPriorityLevelConfiguration) {
	fill.Nil(&c.NominalConcurrencyShares, 0)
	fill.Nil(&c.LendablePercent, 0)
}

// SetDefaults_QueuingConfiguration fills queues, hand size and queue length.
func SetDefaults_QueuingConfiguration(c *flowcontrolv1.QueuingConfiguration) {
	fill.Zero(&c.HandSize, 8)
	fill.Zero(&c.Queues, 64)
	fill.Zero(&c.QueueLengthLimit, 50)
}
