#!/bin/sh
# Pushes the usage of one request, or one job, to ai-spend-exporter:
#
#   push.sh ID TIME PROVIDER MODEL PROMPT_TOKENS COMPLETION_TOKENS [COST_USD]
#   push.sh "$CI_JOB_ID" "$(date +%s)" vllm llama-3.3-70b 120000 4500
#
# AI_SPEND_URL (such as http://ai-spend-exporter:10042) and AI_SPEND_TOKEN must be set.
set -eu
if [ $# -lt 6 ]; then
  sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi

event=$(printf '{"id": "%s", "timestamp": %s, "provider": "%s", "model": "%s", "promptTokens": %s, "completionTokens": %s, "costUsd": %s}' \
  "$1" "$2" "$3" "$4" "$5" "$6" "${7:-null}")

# Retries without a response, at 429 and at 503: the id makes that safe. The token is passed on stdin, where `ps` does
# not show it.
printf 'Authorization: Bearer %s\n' "$AI_SPEND_TOKEN" |
  curl --silent --show-error --fail-with-body --max-time 10 --retry 5 --retry-connrefused \
    --header @- --data "$event" "$AI_SPEND_URL/api/v1/ai/usage/events"
echo
