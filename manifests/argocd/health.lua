-- How Argo CD reads the health of our kinds, from the conditions that Flux and kubectl wait read too.
local health = {status = "Progressing", message = "the operator has not looked at it yet"}
local status = obj.status
if status == nil or status.observedGeneration ~= obj.metadata.generation then
  return health
end
local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end
if conditions.Ready == nil then
  return health
end
health.message = conditions.Ready.message
if conditions.Ready.status == "True" then
  health.status = "Healthy"
elseif status.phase == "Failed" or (conditions.Stalled ~= nil and conditions.Stalled.status == "True") then
  health.status = "Degraded"
end
return health
