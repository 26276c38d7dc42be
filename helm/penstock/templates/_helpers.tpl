{{/* labels of objects; those of pods are the selector alone, so that a new chart version restarts nothing by itself */}}
{{- define "penstock.labels" -}}
{{ include "penstock.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: penstock
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "penstock.selector" -}}
app.kubernetes.io/name: penstock
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* an image reference: a digest beats a tag, the chart's version stands in for both; global.imageRegistry takes the place of a registry in the name */}}
{{- define "penstock.image" -}}
{{- $image := .image -}}
{{- $name := $image.repository -}}
{{- with .root.Values.global.imageRegistry -}}
{{- $parts := splitList "/" $name -}}
{{- if and (gt (len $parts) 1) (or (contains "." (first $parts)) (contains ":" (first $parts)) (eq "localhost" (first $parts))) -}}
{{- $parts = rest $parts -}}
{{- end -}}
{{- $name = printf "%s/%s" (trimSuffix "/" .) (join "/" $parts) -}}
{{- end -}}
{{- if $image.digest -}}
{{ $name }}@{{ $image.digest }}
{{- else -}}
{{ $name }}:{{ $image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "penstock.registryHost" -}}
{{- .Values.registry.host | default (printf "registry.%s:5000" .Release.Namespace) -}}
{{- end }}

{{- define "penstock.plainHttp" -}}
{{- $hosts := .Values.registry.plainHttp -}}
{{- if .Values.registry.enabled -}}
{{- $hosts = prepend $hosts (include "penstock.registryHost" .) -}}
{{- end -}}
{{- join "," (uniq $hosts) -}}
{{- end }}

{{/* where a pod finds the cache of its own node */}}
{{- define "penstock.nodeCacheHost" -}}
{{- printf "node-cache.%s:5001" .Release.Namespace -}}
{{- end }}

{{/* names of pull secrets with commas between them */}}
{{- define "penstock.pullSecretNames" -}}
{{- $names := list -}}
{{- range .Values.global.imagePullSecrets -}}
{{- if kindIs "string" . -}}
{{- $names = append $names . -}}
{{- else -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- end -}}
{{- join "," $names -}}
{{- end }}

{{/* what the operator's, the registry's and the node cache's pod have in common; takes root and settings */}}
{{- define "penstock.pod" -}}
enableServiceLinks: false
terminationGracePeriodSeconds: 30
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with include "penstock.pullSecretNames" .root }}
imagePullSecrets:
  {{- range splitList "," . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- with .settings.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .settings.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .settings.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .settings.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "penstock.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}
