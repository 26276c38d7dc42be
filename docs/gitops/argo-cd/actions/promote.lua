-- End the present step, or promote a candidate that is not at any; keyed by revision, so it counts for this one only.
local candidate = obj.status.candidate
local command = candidate.revision
if candidate.stage == "Stepping" then
  command = command .. "/" .. candidate.step
end
obj.spec.rollout = obj.spec.rollout or {}
obj.spec.rollout.promote = command
return obj
