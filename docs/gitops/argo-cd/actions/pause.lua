-- Hold the weights where they are; a candidate that turns out bad is still taken back.
obj.spec.rollout = obj.spec.rollout or {}
obj.spec.rollout.paused = true
return obj
