{{- define "bud.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains (include "bud.name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "bud.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "bud.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "bud.selector" -}}
app.kubernetes.io/name: {{ include "bud.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "bud.labels" -}}
{{ include "bud.selector" . }}
{{ include "bud.commonLabels" . }}
{{- end -}}

{{- define "bud.commonLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "bud.gateway" -}}
{{- include "bud.fullname" . | trunc 55 | trimSuffix "-" }}-gateway
{{- end -}}

{{- /* Fails for an option that the chart sets: the last one would win, and probes, Services and rights look elsewhere.
How the gateway logs is its own, and may be other than the operator's. */ -}}
{{- define "bud.gatewayExtraArgs" -}}
{{- $own := dict
  "--host" "leave it out: probes and Services need all addresses"
  "--port" "set gateway.service.port, where callers find it; in the pod it is 5000"
  "--metrics-port" "leave it out: probes and Services find it at 8080"
  "--drain-delay" "set gateway.drain.delaySeconds"
  "--drain-limit" "set gateway.drain.limitSeconds"
  "--max-stale-keys" "set gateway.maxStaleKeys"
  "--replicas" "set gateway.replicas"
  "--namespace" "set namespaces, which gives the rights, too"
  "--home-namespace" "leave it out: it is the release's, where the gateway has its rights"
  "--allow-upstream" "set gateway.allowUpstream"
  "--cors-origin" "set gateway.corsOrigins"
-}}
{{- range .Values.gateway.extraArgs }}
{{- $option := splitList "=" . | first }}
{{- with get $own $option }}
{{- fail (printf "gateway.extraArgs: the chart sets %s by itself; %s" $option .) }}
{{- end }}
{{- end }}
{{- with .Values.gateway.extraArgs }}
{{- toYaml . }}
{{- end }}
{{- end -}}

{{- define "bud.gatewaySelector" -}}
app.kubernetes.io/name: {{ include "bud.name" . | trunc 55 | trimSuffix "-" }}-gateway
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "bud.gatewayLabels" -}}
{{ include "bud.gatewaySelector" . }}
{{ include "bud.commonLabels" . }}
{{- end -}}

{{- define "bud.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "bud.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- /* Several releases may share a cluster where each serves its own namespaces. */ -}}
{{- define "bud.clusterRole" -}}
{{- include "bud.fullname" . }}{{ if .Values.namespaces }}-{{ .Release.Namespace }}{{ end }}
{{- end -}}

{{- define "bud.installsRuntimes" -}}
{{- if and .Values.runtimes.enabled (not .Values.namespaces) }}true{{ end }}
{{- end -}}

{{- define "bud.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "bud.runtimes" -}}
{{- (.Files.Glob "runtimes/*.yaml").AsConfig -}}
{{- end -}}

{{- define "bud.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- /* What the operator's pods have in common. */ -}}
{{- define "bud.podSpec" -}}
serviceAccountName: {{ include "bud.serviceAccount" . }}
{{ include "bud.podCommon" . }}
{{- end -}}

{{- /* What all pods of the release have in common. */ -}}
{{- define "bud.podCommon" -}}
automountServiceAccountToken: true
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
