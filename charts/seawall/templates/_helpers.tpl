{{/* Names are fixed: admission policies and RBAC name each other, and there is one Seawall in a cluster. */}}

{{- define "seawall.labels" -}}
app.kubernetes.io/name: seawall
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: seawall
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "seawall.selector" -}}
app.kubernetes.io/name: seawall
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Of the agents on nodes: the operator's Services must not choose them. */}}
{{- define "seawall.agentSelector" -}}
app.kubernetes.io/name: seawall-agent
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "seawall.agentLabels" -}}
{{ include "seawall.agentSelector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: seawall
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* The namespace of the agents' ServiceAccounts. It is part of every agent's user name, so it is no value. */}}
{{- define "seawall.agentsNamespace" -}}seawall-agents{{- end }}

{{- define "seawall.agentPrefix" -}}system:serviceaccount:{{ include "seawall.agentsNamespace" . }}:{{- end }}

{{- define "seawall.operatorUser" -}}system:serviceaccount:{{ .Release.Namespace }}:seawall{{- end }}

{{- define "seawall.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "seawall.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* The Secret with the MCP server's certificate; empty where it speaks plain HTTP. */}}
{{- define "seawall.mcpTlsSecret" -}}
{{- if .Values.mcp.tls.certManager -}}seawall-mcp-tls{{- else -}}{{ .Values.mcp.tls.existingSecret }}{{- end -}}
{{- end }}

{{- define "seawall.mcpScheme" -}}
{{- if include "seawall.mcpTlsSecret" . -}}https{{- else -}}http{{- end -}}
{{- end }}

{{/* The names of the MCP server's Service, one a line. */}}
{{- define "seawall.mcpNames" -}}
{{- $service := printf "seawall-mcp.%s" .Release.Namespace -}}
{{- list "seawall-mcp" $service (printf "%s.svc" $service) (printf "%s.svc.cluster.local" $service) | join "\n" -}}
{{- end }}

{{/* What a Certificate is for, from a list of hosts: each a name or an address, with a port or without. */}}
{{- define "seawall.certificateNames" -}}
{{- $names := list -}}
{{- $addresses := list -}}
{{- range . -}}
{{- if regexMatch "^[0-9.]+(:[0-9]+)?$" . -}}
{{- $addresses = append $addresses (regexReplaceAll ":[0-9]+$" . "") -}}
{{- else if contains "[" . -}}
{{- $addresses = append $addresses (regexReplaceAll "^\\[(.*)\\].*$" . "${1}") -}}
{{- else if regexMatch ":.*:" . -}}
{{- $addresses = append $addresses . -}}
{{- else -}}
{{- $names = append $names (regexReplaceAll ":[0-9]+$" . "") -}}
{{- end -}}
{{- end -}}
{{- with uniq $names -}}
dnsNames:
{{ toYaml . }}
{{ end -}}
{{- with uniq $addresses -}}
ipAddresses:
{{ toYaml . }}
{{ end -}}
{{- end }}
