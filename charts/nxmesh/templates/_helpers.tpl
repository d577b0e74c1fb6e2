{{- /* The name of everything: `nxmesh` in a release called nxmesh, else `<release>-nxmesh`. At most 52 characters, so that pods' labels fit. */ -}}
{{- define "nxmesh.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "nxmesh.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "nxmesh.labels" -}}
{{ include "nxmesh.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "nxmesh.health" -}}
exec:
  command:
    - node
    - --eval
    - fetch('http://127.0.0.1:{{ .Values.config.http_bind_port }}/health').then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))
periodSeconds: 10
timeoutSeconds: 5
{{- end -}}

{{- define "nxmesh.image" -}}
{{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) | quote }}
{{- end -}}

{{- define "nxmesh.podName" -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- end -}}
