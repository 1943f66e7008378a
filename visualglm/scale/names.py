"""Names of the Ray Serve application and its parts."""

APPLICATION = "visualglm"
MODEL_DEPLOYMENT = "Model"
INGRESS_DEPLOYMENT = "Ingress"
COORDINATOR = "visualglm-coordinator"
NAMESPACE = "visualglm"
