{{/*
What the two policies below share: which scope speaks, and what it says of every kind.
The argument is a dictionary: root (the chart's context), resource, and the tools that make, change and remove it, of
which a Custom scope needs one: either tools, by operation, or toolsExpression, the list of them in CEL.
*/}}
{{- define "seawall.agentScope" -}}
failurePolicy: Fail
paramKind:
  apiVersion: seawall.dev/v1alpha1
  kind: ApiKeyScope
matchConstraints:
  resourceRules:
    - apiGroups: [seawall.dev]
      apiVersions: [v1alpha1]
      operations: [CREATE, UPDATE, DELETE]
      resources: [{{ .resource }}]
matchConditions:
  - name: by-the-agent-of-this-scope
    expression: >-
      request.userInfo.username ==
      '{{ include "seawall.agentPrefix" .root }}' + params.metadata.namespace + '.' + params.metadata.name
variables:
  - name: scope
    expression: "'the ApiKeyScope ' + params.metadata.name"
  - name: writes
    expression: request.operation != 'DELETE'
  - name: tools
    expression: params.spec.?tools.orValue([])
  - name: toolsForThis
    expression: >-
      {{- if .toolsExpression }}
      {{ .toolsExpression }}
      {{- else }}
      {
      {{- range $operation, $tools := .tools }}
      '{{ $operation }}': ['{{ join "', '" $tools }}'],
      {{- end }}
      }[request.operation]
      {{- end }}
  - name: allDevices
    expression: params.spec.?targets.?devices.?all.orValue(false)
  # What the operator resolved counts only for the scope as it is now.
  - name: resolved
    expression: >-
      params.?status.?observedGeneration.orValue(0) == params.metadata.generation
      ? params.?status.?targets.?devices.orValue([]) : []
{{- end }}

{{/* The first validations of both. */}}
{{- define "seawall.agentScope.validations" -}}
- expression: "!params.spec.?disabled.orValue(false)"
  messageExpression: variables.scope + ' is disabled'
  reason: Forbidden
- expression: params.spec.access != 'Investigate'
  messageExpression: variables.scope + ' has access Investigate, which only reads'
  reason: Forbidden
- expression: >-
    params.spec.access != 'Custom' || variables.tools.exists(t, t in variables.toolsForThis)
  messageExpression: >-
    variables.scope + ' has none of the tools that do this: ' + variables.toolsForThis.join(', ')
  reason: Forbidden
{{- end }}

{{/* Every scope of the request's namespace is asked. Denying where there is none would refuse people. */}}
{{- define "seawall.agentScope.binding" -}}
paramRef:
  selector: {}
  parameterNotFoundAction: Allow
validationActions: [Deny, Audit]
{{- end }}
