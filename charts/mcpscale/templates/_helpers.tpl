{{- define "mcpscale.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* At most 52 characters, so that every suffix used below fits a DNS label. */ -}}
{{- define "mcpscale.fullname" -}}
{{- $name := include "mcpscale.name" . }}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- .Values.fullnameOverride | default $full | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- /* Names of cluster-wide objects carry the namespace: the same release name may be used in several. */ -}}
{{- define "mcpscale.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "mcpscale.fullname" .) }}
{{- end }}

{{- define "mcpscale.selectorLabels" -}}
app.kubernetes.io/name: {{ include "mcpscale.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "mcpscale.prometheusSelectorLabels" -}}
app.kubernetes.io/name: {{ include "mcpscale.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: prometheus
{{- end }}

{{- /* What every object carries besides its selector labels. */ -}}
{{- define "mcpscale.commonLabels" -}}
app.kubernetes.io/part-of: mcpscale
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- with .Values.extraLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "mcpscale.labels" -}}
{{ include "mcpscale.selectorLabels" . }}
{{ include "mcpscale.commonLabels" . }}
{{- end }}

{{- define "mcpscale.prometheusLabels" -}}
{{ include "mcpscale.prometheusSelectorLabels" . }}
{{ include "mcpscale.commonLabels" . }}
{{- end }}

{{- /* Address of the metrics source, or nothing. */ -}}
{{- define "mcpscale.prometheusUrl" -}}
{{- if and .Values.prometheus.install .Values.prometheus.url }}
{{- fail "prometheus.install and prometheus.url are both set: the operator reads one Prometheus. Unset one of them." }}
{{- end }}
{{- if .Values.prometheus.install -}}
http://{{ include "mcpscale.fullname" . }}-prometheus.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}:9090
{{- else -}}
{{ .Values.prometheus.url }}
{{- end -}}
{{- end }}

{{- /* With the container's part below: Pod Security level `restricted`. Call with the uid. */ -}}
{{- define "mcpscale.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "mcpscale.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* Placement and pull settings every pod of the chart shares. */ -}}
{{- define "mcpscale.podSettings" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}
