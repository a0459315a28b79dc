{{- define "openlambda.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- /* All names begin with it, so that releases do not meet. */ -}}
{{- define "openlambda.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "openlambda.name" .) .Release.Name }}
{{- printf "%s-operator" .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s-operator" .Release.Name (include "openlambda.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "openlambda.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "openlambda.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* They select pods and can never change. */ -}}
{{- define "openlambda.selectorLabels" -}}
app.kubernetes.io/name: {{ include "openlambda.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "openlambda.labels" -}}
{{ include "openlambda.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "openlambda.image" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}

{{- define "openlambda.agentImage" -}}
{{- printf "%s:%s" .Values.agent.image.repository (coalesce .Values.agent.image.tag .Values.image.tag .Chart.AppVersion) }}
{{- end }}

{{- define "openlambda.lardImage" -}}
{{- printf "%s:%s" .Values.lard.image.repository (coalesce .Values.lard.image.tag .Values.image.tag .Chart.AppVersion) }}
{{- end }}

{{- define "openlambda.registryImage" -}}
{{- printf "%s:%s" .Values.registry.image.repository (coalesce .Values.registry.image.tag .Values.image.tag .Chart.AppVersion) }}
{{- end }}

{{- /* The LambdaCluster's spec: the shortcuts, and over them what is said in full. */ -}}
{{- define "openlambda.clusterSpec" -}}
{{- $service := dict }}
{{- range $key, $value := .Values.service }}
{{- if $value }}{{ $_ := set $service $key $value }}{{ end }}
{{- end }}
{{- $spec := dict }}
{{- if $service }}{{ $_ := set $spec "loadBalancer" (dict "service" $service) }}{{ end }}
{{- with .Values.ingress }}
{{- if .enabled }}
{{- $ingress := dict }}
{{- with .className }}{{ $_ := set $ingress "className" . }}{{ end }}
{{- with .annotations }}{{ $_ := set $ingress "annotations" . }}{{ end }}
{{- range .hosts }}
{{- if kindIs "string" . }}{{ $_ := set $ingress "host" . }}{{ else }}{{ $_ := set $ingress "host" .host }}{{ end }}
{{- end }}
{{- range .tls }}{{ $_ := set $ingress "tls" (dict "secretName" .secretName) }}{{ end }}
{{- $_ := set $spec "ingress" $ingress }}
{{- end }}
{{- end }}
{{- toYaml (mustMergeOverwrite $spec (deepCopy .Values.cluster.spec)) }}
{{- end }}

{{- /* The port of that LambdaCluster's Service. */ -}}
{{- define "openlambda.port" -}}
{{- dig "loadBalancer" "service" "port" 80 (include "openlambda.clusterSpec" . | fromYaml) }}
{{- end }}

{{- /* The namespace that is looked after, or * for all. */ -}}
{{- define "openlambda.watch" -}}
{{- default .Release.Namespace .Values.watchNamespace }}
{{- end }}

{{- /* A namespace to work in: the one that is looked after, or the release's own. */ -}}
{{- define "openlambda.workNamespace" -}}
{{- $watch := include "openlambda.watch" . }}
{{- ternary .Release.Namespace $watch (eq $watch "*") }}
{{- end }}
