-- Go on after pause.
if obj.spec.rollout ~= nil then
  obj.spec.rollout.paused = nil
end
return obj
