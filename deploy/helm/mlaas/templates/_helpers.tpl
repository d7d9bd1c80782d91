{{- define "mlaas.name" -}}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{- end }}

{{- define "mlaas.labels" -}}
app.kubernetes.io/name: mlaas
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{- define "mlaas.selector" -}}
app.kubernetes.io/name: mlaas
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "mlaas.scheme" -}}{{ if .Values.tlsSecret }}https{{ else }}http{{ end }}{{- end }}

{{- /* One service: .root, .part, .port, .values, .args (a list). */ -}}
{{- define "mlaas.service" -}}
{{- $name := printf "%s-%s" (include "mlaas.name" .root) .part }}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  labels: {{- include "mlaas.labels" . | nindent 4 }}
spec:
  replicas: {{ .values.replicas | default 1 }}
  {{- if eq .part "agent" }}
  strategy: {type: Recreate}
  {{- end }}
  selector:
    matchLabels: {{- include "mlaas.selector" . | nindent 6 }}
  template:
    metadata:
      labels: {{- include "mlaas.labels" . | nindent 8 }}
    spec:
      {{- if eq .part "agent" }}
      serviceAccountName: {{ $name }}
      {{- else }}
      automountServiceAccountToken: false
      {{- end }}
      terminationGracePeriodSeconds: 40
      securityContext: {{- toYaml .root.Values.podSecurityContext | nindent 8 }}
      {{- with .root.Values.pullSecrets }}
      imagePullSecrets: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .root.Values.nodeSelector }}
      nodeSelector: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .root.Values.tolerations }}
      tolerations: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .root.Values.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      {{- if ne .part "agent" }}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels: {{- include "mlaas.selector" . | nindent 14 }}
      {{- end }}
      containers:
        - name: {{ .part }}
          image: {{ required "image is empty, want the image that has the mlaas binary at /mlaas" .root.Values.image | quote }}
          imagePullPolicy: {{ .root.Values.pullPolicy }}
          command: ["/mlaas"]
          args:
            {{- range .args }}
            - {{ . | quote }}
            {{- end }}
            - --dir=/data
            - --listen=:{{ .port }}
            - --log-format=json
            - --log-level={{ .root.Values.logLevel }}
            - --linger=5s
            - --advertise={{ include "mlaas.scheme" .root }}://$(POD_IP):{{ .port }}
            {{- if .root.Values.tlsSecret }}
            - --tls-cert=/tls/tls.crt
            - --tls-key=/tls/tls.key
            {{- else }}
            - --plain
            {{- end }}
            {{- if .root.Values.caSecret }}
            - --tls-ca=/ca/ca.crt
            {{- end }}
          env:
            - name: POD_IP
              valueFrom: {fieldRef: {fieldPath: status.podIP}}
            {{- if ne .part "agent" }}
            {{- $secret := required "secret is empty, want the name of a Secret with key, token, store and blob" .root.Values.secret }}
            - name: MLAAS_STORE
              valueFrom: {secretKeyRef: {name: {{ $secret }}, key: store}}
            - name: MLAAS_BLOB
              valueFrom: {secretKeyRef: {name: {{ $secret }}, key: blob}}
            - name: MLAAS_KEY_FILE
              value: /secret/key
            - name: MLAAS_TOKEN_FILE
              value: /secret/token
            {{- end }}
          ports:
            - {name: serve, containerPort: {{ .port }}}
          livenessProbe:
            httpGet: {path: /livez, port: serve, scheme: {{ include "mlaas.scheme" .root | upper }}}
            periodSeconds: 10
            failureThreshold: 6
          readinessProbe:
            httpGet: {path: /readyz, port: serve, scheme: {{ include "mlaas.scheme" .root | upper }}}
            periodSeconds: 5
            timeoutSeconds: 5
          resources: {{- toYaml .values.resources | nindent 12 }}
          securityContext: {{- toYaml .root.Values.securityContext | nindent 12 }}
          volumeMounts:
            - {name: data, mountPath: /data}
            - {name: tmp, mountPath: /tmp} # what is uploaded passes through files
            {{- if ne .part "agent" }}
            - {name: secret, mountPath: /secret, readOnly: true}
            {{- else }}
            - {name: cluster-token, mountPath: /cluster-token, readOnly: true}
            {{- end }}
            {{- if .root.Values.tlsSecret }}
            - {name: tls, mountPath: /tls, readOnly: true}
            {{- end }}
            {{- if .root.Values.caSecret }}
            - {name: ca, mountPath: /ca, readOnly: true}
            {{- end }}
            {{- if .files }}
            - {name: clusters, mountPath: /clusters, readOnly: true}
            {{- end }}
      volumes:
        - name: data
          emptyDir: {}
        - name: tmp
          emptyDir: {}
        {{- if ne .part "agent" }}
        - name: secret
          secret: {secretName: {{ .root.Values.secret }}, items: [{key: key, path: key}, {key: token, path: token}], defaultMode: 288}
        {{- else }}
        - name: cluster-token
          secret: {secretName: {{ required "agent.tokenSecret is empty, want the name of a Secret with the token of the cluster as token" .values.tokenSecret }}, defaultMode: 288}
        {{- end }}
        {{- if .root.Values.tlsSecret }}
        - name: tls
          secret: {secretName: {{ .root.Values.tlsSecret }}, defaultMode: 288}
        {{- end }}
        {{- if .root.Values.caSecret }}
        - name: ca
          secret: {secretName: {{ .root.Values.caSecret }}}
        {{- end }}
        {{- if .files }}
        - name: clusters
          secret: {secretName: {{ .files }}, defaultMode: 288}
        {{- end }}
{{- if gt (int (.values.replicas | default 1)) 1 }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ $name }}
  labels: {{- include "mlaas.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels: {{- include "mlaas.selector" . | nindent 6 }}
{{- end }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ $name }}
  labels: {{- include "mlaas.labels" . | nindent 4 }}
  {{- with .service }}
  {{- with .annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
spec:
  type: {{ dig "type" "ClusterIP" (.service | default dict) }}
  selector: {{- include "mlaas.selector" . | nindent 4 }}
  ports:
    - {name: serve, port: {{ .port }}, targetPort: serve}
{{- end }}
