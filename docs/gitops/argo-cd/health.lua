-- Health of a ModelDeployment or a Router: Degraded when it is stalled, Suspended while it waits for a person, Healthy
-- when what serves is what spec asks for.
local status = obj.status or {}
local generation = obj.metadata.generation
if status.observedGeneration ~= generation then
  return { status = "Progressing", message = "waiting for the operator to look at generation " .. generation }
end

local found = {}
for _, condition in ipairs(status.conditions or {}) do
  found[condition.type] = condition
end
local ready = found.Ready or {}

if found.Stalled ~= nil and found.Stalled.status == "True" then
  return { status = "Degraded", message = found.Stalled.message }
end
if ready.status == "True" then
  return { status = "Healthy", message = ready.message }
end
if status.phase == "Paused" then
  return { status = "Suspended", message = ready.message or status.message or "waiting for a person" }
end
return { status = "Progressing", message = ready.message or status.message or "waiting for the operator" }
