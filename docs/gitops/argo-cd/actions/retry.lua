-- Try the revision again that was taken back, without the commands that were given for it.
-- Argo CD opens no string library to scripts of argocd-cm: commands are compared whole.
local rollout = obj.spec.rollout or {}
local failed = obj.status.failedRevision.revision

if rollout.abort == failed then
  rollout.abort = nil
end
for step = 1, 99 do
  if rollout.promote == failed or rollout.promote == failed .. "/" .. step then
    rollout.promote = nil
  end
end

local token = 0
for _, used in ipairs({ rollout.retryToken or "", obj.status.observedRetryToken or "" }) do
  local number = tonumber(used) or 0
  if number > token then
    token = number
  end
end
rollout.retryToken = "" .. token + 1
obj.spec.rollout = rollout
return obj
