"""The desired route of a model, the Services in front of it, and the fleet of router pods that follows it."""

from .fleet import fleet_name, fleet_objects
from .planning import Fleet, FleetPlan, is_moving, plan_fleet
from .pod import AGENT_PORT, STATS_PORT
from .published import routes
from .route import default_router, member_manager, membership, traffic_split
from .services import Target, client_service, preview_service, to_revision, to_router

__all__ = [
    "AGENT_PORT",
    "STATS_PORT",
    "Fleet",
    "FleetPlan",
    "Target",
    "client_service",
    "default_router",
    "fleet_name",
    "fleet_objects",
    "is_moving",
    "member_manager",
    "membership",
    "plan_fleet",
    "preview_service",
    "routes",
    "to_revision",
    "to_router",
    "traffic_split",
]
