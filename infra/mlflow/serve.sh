#!/usr/bin/env bash
# MLflow's server on PostgreSQL, with passwords: compose.yaml runs it in Docker, docs/clusters.md without.
# Everything secret is in the environment, and so neither in a file nor in a process's arguments:
#   PGHOST PGUSER PGPASSWORD PGDATABASE                        libpq's own variables
#   MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY   of the server; the first start makes the user admin
#   AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY MLFLOW_S3_ENDPOINT_URL   where artifacts go to an S3-compatible store
set -euo pipefail
: "${PGDATABASE:?}" "${MLFLOW_AUTH_ADMIN_PASSWORD:?}" "${MLFLOW_FLASK_SERVER_SECRET_KEY:?}"
MLFLOW_AUTH_CONFIG_PATH="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/auth.ini"
export MLFLOW_AUTH_CONFIG_PATH
# Workers for jobs of language models' evaluation; nobody here submits any.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
exec mlflow server \
    --app-name basic-auth \
    --host "${MLFLOW_HOST:-127.0.0.1}" \
    --port "${MLFLOW_PORT:-5000}" \
    --workers "${MLFLOW_WORKERS:-2}" \
    --backend-store-uri postgresql+psycopg:// \
    --artifacts-destination "${MLFLOW_ARTIFACTS_DESTINATION:-mlartifacts}"
