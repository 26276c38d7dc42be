-- Take the candidate back: stable gets all traffic.
obj.spec.rollout = obj.spec.rollout or {}
obj.spec.rollout.abort = obj.status.candidate.revision
return obj
