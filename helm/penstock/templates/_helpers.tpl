{{- define "penstock.labels" -}}
app.kubernetes.io/name: penstock
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: penstock
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "penstock.selector" -}}
app.kubernetes.io/name: penstock
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* an image reference: a digest beats a tag, the chart's version stands in for both; global.imageRegistry beats a registry in the name */}}
{{- define "penstock.image" -}}
{{- $image := .image -}}
{{- $name := $image.repository -}}
{{- if .root.Values.global.imageRegistry -}}
{{- $name = printf "%s/%s" (trimSuffix "/" .root.Values.global.imageRegistry) (last (splitList "/" $name)) -}}
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
{{- join "," $hosts -}}
{{- end }}

{{- define "penstock.pullSecrets" -}}
{{- with .Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ if kindIs "string" . }}{{ . }}{{ else }}{{ .name }}{{ end }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "penstock.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "penstock.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}
