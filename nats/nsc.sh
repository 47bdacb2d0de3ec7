#!/usr/bin/env bash
# The accounts and users of secure.conf for a server in operator mode, where both are JWTs that nsc signs. Who may do what, and why,
# is told in secure.conf: the lists are the same.
#
#   nsc add operator --name mine --sys         where there is no operator yet
#   nats/nsc.sh data/nsc                       accounts INSIDE and OUTSIDE, and data/nsc/<role>.creds for each role
#   nsc push --all                             to a server that takes accounts over NATS; or
#   nsc generate config --mem-resolver         what another takes into its configuration, beside `tls` and `jetstream`
#   stream-sum --creds data/nsc/chunker.creds chunker
#
# Each role names its inbox with nats.inbox_prefix: _INBOX_admin, _INBOX_summer, _INBOX_chunker or _INBOX_reader.
# PARTITIONS=16 nats/nsc.sh: as many logs as `topology apply --partitions` makes.
set -euo pipefail

creds=${1:?name a folder for the credentials}
partitions=${PARTITIONS:-8}
inside=INSIDE
outside=OUTSIDE

# What is made here is for its owner alone.
umask 077
mkdir -p "$creds"

# A request of JetStream's API about each log: logs REQUEST [WHAT COMES BEHIND THE NAME]
logs() {
  for ((n = 0; n < partitions; n++)); do echo "\$JS.API.$1.chunks-$n${2:-}"; done
}

# The same about other streams: api REQUEST STREAM…
api() {
  for stream in "${@:2}"; do echo "\$JS.API.$1.$stream"; done
}

# A user with what it may publish and subscribe to, one a line: user ACCOUNT NAME PUBLISH SUBSCRIBE. The lists are kept with the key
# that signs the user, because a user's own JWT would be longer than a line that a server reads; and so they can be changed without
# new credentials.
user() {
  nsc edit signing-key --account "$1" --role "$2" --sk generate \
    --allow-pub "$(paste -sd, <<<"$3")" --allow-sub "$(paste -sd, <<<"$4")"
  nsc add user --account "$1" --name "$2" --private-key "$2"
  nsc generate creds --account "$1" --name "$2" --output-file "$creds/$2.creds"
}

# What OUTSIDE may call in INSIDE, and no other account of the operator: call NAME SUBJECT Singleton|Stream
call() {
  nsc add export --account "$inside" --name "$1" --subject "$2" --service --private --response-type "$3"
  nsc generate activation --account "$inside" --target-account "$outside" --subject "$2" --output-file "$creds/$1.activation"
  nsc add import --account "$outside" --name "$1" --token "$creds/$1.activation" --local-subject "$2"
  rm "$creds/$1.activation"
}

nsc add account --name "$inside"
nsc edit account --name "$inside" --js-disk-storage -1 --js-mem-storage -1 --js-streams -1 --js-consumer -1
nsc add account --name "$outside"

call jetstream '$JS.API.>' Stream
call chunks 'chunks.*' Singleton
call all-summers summers.standing Stream
call one-summer 'summers.standing.*' Singleton
call streams-under-way 'summers.ask.*' Singleton
call services '$SRV.>' Stream

all=(sums rejects OBJ_stream-sum-state KV_stream-sum-members)

user "$inside" admin "$(
  logs STREAM.INFO
  # Whether the system was made with more.
  api STREAM.INFO "chunks-$partitions" "${all[@]}"
  logs STREAM.CREATE
  api STREAM.CREATE "${all[@]}"
  logs STREAM.UPDATE
  api STREAM.UPDATE "${all[@]}"
  echo 'summers.accept.*'
)" "$(
  echo '_INBOX_admin.>'
  echo 'summers.accepted.*'
)"

user "$inside" summer "$(
  echo 'sums.*.*'
  echo 'rejects.*.*.*'
  echo 'rejects.*.*.*.*'
  logs STREAM.INFO
  logs STREAM.MSG.GET
  # Each by its name: `*` would be `sums` as well.
  logs STREAM.PURGE
  logs CONSUMER.CREATE '.*'
  logs CONSUMER.INFO '.*'
  logs CONSUMER.DELETE '.*'
  logs CONSUMER.MSG.NEXT '.*'
  api STREAM.INFO "${all[@]}"
  api STREAM.MSG.GET "${all[@]}"
  echo '$O.stream-sum-state.C.*'
  echo '$O.stream-sum-state.M.*'
  api DIRECT.GET 'OBJ_stream-sum-state.$O.stream-sum-state.M.*'
  api STREAM.PURGE OBJ_stream-sum-state
  echo '$KV.stream-sum-members.*'
  echo 'summers.committed.*'
  echo 'summers.accepted.*'
  echo '_R_.>'
)" "$(
  echo '_INBOX_summer.>'
  echo '$KV.stream-sum-members.>'
  echo 'summers.committed.*'
  echo 'summers.accept.*'
  echo 'summers.standing'
  echo 'summers.standing.*'
  echo 'summers.ask.*'
  echo '$SRV.>'
)"

user "$outside" chunker "$(
  echo 'chunks.*'
  logs STREAM.INFO
  api STREAM.INFO sums rejects OBJ_stream-sum-state
  api CONSUMER.CREATE sums
  api CONSUMER.MSG.NEXT 'sums.*'
  api CONSUMER.INFO 'sums.*'
  api STREAM.MSG.GET sums
  echo summers.standing
)" '_INBOX_chunker.>'

user "$outside" reader "$(
  logs STREAM.INFO
  api STREAM.INFO sums rejects OBJ_stream-sum-state
  api STREAM.MSG.GET sums rejects OBJ_stream-sum-state
  logs CONSUMER.NAMES
  logs STREAM.MSG.GET
  echo summers.standing
  echo 'summers.standing.*'
  echo 'summers.ask.*'
  echo '$SRV.>'
)" '_INBOX_reader.>'
