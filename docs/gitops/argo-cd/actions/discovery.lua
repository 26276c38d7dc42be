-- Which buttons a ModelDeployment has now.
local status = obj.status or {}
local rollout = obj.spec.rollout or {}
local candidate = status.candidate
local idle = candidate == nil
local stepping = not idle and candidate.stage == "Stepping"
-- with autoPromote: false a promoted revision has passed the preview; its switch ends by `promote` alone
local gated = rollout.strategy == "BlueGreen" and (rollout.blueGreen or {}).autoPromote == false

return {
  ["pause"] = { disabled = idle or rollout.paused == true },
  ["resume"] = { disabled = rollout.paused ~= true },
  ["promote"] = { disabled = idle, displayName = stepping and "End step" or "Promote" },
  ["promote-full"] = { disabled = idle or (gated and stepping), displayName = "Promote in full" },
  ["abort"] = { disabled = idle },
  ["retry"] = { disabled = status.failedRevision == nil },
}
