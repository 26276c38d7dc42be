-- Promote the candidate now, whatever is left of its plan.
obj.spec.rollout = obj.spec.rollout or {}
obj.spec.rollout.promote = obj.status.candidate.revision
return obj
