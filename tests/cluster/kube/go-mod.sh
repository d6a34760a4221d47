#!/bin/sh
# Writes go.mod and go.sum for the Kubernetes version $1 (such as 1.34.4). k8s.io/kubernetes points its
# staging modules at folders of its own tree, so each is replaced by the module published as v0.<minor>.<patch>.
set -eu
version=${1:?usage: go-mod.sh VERSION}
cd "$(dirname "$0")"
upstream=$(GOFLAGS=-mod=mod go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/^\t"GoMod": "\(.*\)",$/\1/p')
{
    printf 'module kube\n\n'
    grep '^go ' "$upstream"
    printf '\nrequire k8s.io/kubernetes v%s\n\nreplace (\n' "$version"
    sed -n "s|^\t\(k8s.io/[a-z0-9-]*\) => ./staging.*|\t\1 => \1 v0.${version#1.}|p" "$upstream"
    printf ')\n'
} > go.mod
go mod tidy
