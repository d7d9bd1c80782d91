package management

import (
	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/auth"
	"mlaas.dev/mlaas/health"
)

// routes is the whole API, one line each: what is called, its name, what it
// does, who may, and what answers. A route that is not here does not exist,
// and one without a policy is refused. The first part is figure 4.2 of the
// paper as printed.
func (m *Management) routes() []route {
	return []route{
		{"GET /api/job", "listJobs", "List the jobs, newest first", auth.Member, reads(200, m.listJobs)},
		{"POST /api/job", "createJob", "Make a job; everything but its name has a default", auth.Member, writes(m, 201, m.createJob)},
		{"GET /api/job/{id}", "getJob", "Read a job, where its newest run stands, and what the last finished one came to", auth.Member, reads(200, m.getJob)},
		{"PATCH /api/job/{id}", "editJob", "Change a job by a JSON merge patch (RFC 7396)", auth.Member, writes(m, 200, m.patchJob).takes(new(JobPatch))},
		{"DELETE /api/job/{id}", "deleteJob", "Delete a job; for 7 days it can be restored. Its name is free at once", auth.Member, writes(m, 204, m.deleteJob)},
		{"GET /api/job/{id}/code", "listVersions", "List the versions of a job's code, newest first", auth.Member, reads(200, m.listVersions)},
		{"POST /api/job/{id}/code", "pushCode", "Make a version: of JSON, a zip or a tar.gz. Equal code is the version that is there, with 200", auth.Member, writes(m, 201, m.pushCode).or(200)},
		{"GET /api/job/{id}/code/{versionId}", "getVersion", "Read a version, with ?content=true its files, with ?format=zip as an archive", auth.Member, raw(200, "application/json", m.getVersion).gives(new(VersionView)).as("application/zip", "application/gzip")},
		{"GET /api/job/{id}/code/{versionId}/prepared", "getPrepared", "Read what a run would start: each file that is not as it was written, as a unified diff; with ?format=diff that alone", auth.Member, raw(200, "application/json", m.getPrepared).gives(new(PreparedView)).as("text/x-diff")},
		{"PUT /api/job/{id}/code/{versionId}", "putVersion", "With code: make a new version. With labels alone: replace those of this one", auth.Member, writes(m, 200, m.putVersion).or(201)},
		{"GET /api/job/{id}/draft", "getDraft", "Read what is edited of a job's code and is no version yet; where nothing is, that is the newest version", auth.Member, reads(200, m.getDraft)},
		{"POST /api/job/{id}/draft/open", "openDoc", "Open the text of a file of the draft, to edit it with others: docs/reference/draft.md", auth.Member, writes(m, 200, m.openDoc)},
		{"POST /api/job/{id}/draft/push", "pushEdits", "Edit a text of the draft, or say where one's cursor is. Edits of an old version are not taken: another came first", auth.Member, writes(m, 200, m.pushEdits)},
		{"POST /api/job/{id}/draft/file", "addDraftFile", "Put a file into the draft", auth.Member, writes(m, 200, m.addDraftFile)},
		{"DELETE /api/job/{id}/draft/file/{path...}", "removeDraftFile", "Take a file out of the draft", auth.Member, writes(m, 200, m.removeDraftFile)},
		{"POST /api/job/{id}/draft/rename", "renameDraftFile", "Give a file of the draft another path; who edits it goes on", auth.Member, writes(m, 200, m.renameDraftFile)},
		{"POST /api/job/{id}/draft/save", "saveDraft", "Make a version of the draft. Equal code is the version that is there, with 200", auth.Member, writes(m, 201, m.saveDraft).or(200)},
		{"POST /api/job/{id}/draft/reset", "resetDraft", "Make the draft what a version is: give changes up, or go back", auth.Member, writes(m, 200, m.resetDraft)},
		{"POST /api/job/{id}/draft/merge", "mergeDraft", "Take into the draft what a version changed, line by line", auth.Member, writes(m, 200, m.mergeDraft)},
		{"POST /api/job/{id}/run", "startRun", "Run a job", auth.Member, writes(m, 202, m.startRun).takes(new(RunAsk))},
		{"POST /api/job/{id}/stop", "stopJob", "Stop the live runs of a job, or one of them", auth.Member, writes(m, 202, m.stopJob)},
		{"GET /api/job/{id}/node", "listReplicas", "List the replicas of a job's run", auth.Member, reads(200, m.listNodes)},
		{"GET /api/job/{id}/node/{nodeId}", "getReplica", "Read one replica", auth.Member, reads(200, m.getNode)},
		{"GET /api/job/{id}/node/{nodeId}/status", "getReplicaStatus", "Read where a replica stands", auth.Member, reads(200, m.nodeStatus)},
		{"GET /api/job/{id}/node/{nodeId}/log", "getReplicaLog", "Read or follow what a replica writes", auth.Member, raw(200, ndjson, m.nodeLog).gives(new(ReplicaLine))},
		{"GET /api/job/{id}/node/{nodeId}/metric", "getReplicaMetrics", "Read the curves of a replica", auth.Member, reads(200, m.nodeMetric)},
		{"GET /api/job/{id}/node/{nodeId}/event", "listReplicaEvents", "List what happened to a replica, oldest first", auth.Member, reads(200, m.nodeEvents)},
		{"GET /api/job/{id}/node/{nodeId}/resource", "getReplicaResources", "Read what a replica needs, may take and has used", auth.Member, reads(200, m.nodeResources)},
		{"GET /api/job/{id}/node/{nodeId}/shell", "openShell", "Open a shell in a running replica, or run a command there, over a WebSocket: docs/reference/stream.md", auth.Member, raw(101, octets, m.shell)},
		{"GET /api/job/{id}/node/{nodeId}/stack", "getStack", "Read what every thread of a running replica's Python processes does now, also of one that hangs", auth.Member, reads(200, m.nodeStack)},
		{"POST /api/job/{id}/node/{nodeId}/debugger", "openDebugger", "Have a running replica's program let a debugger in (debugpy, which its environment must have), and say at which port of it", auth.Member, reads(200, m.nodeDebugger)},
		{"GET /api/job/{id}/node/{nodeId}/port/{port}", "openPort", "Connect to a port of a running replica, over a WebSocket", auth.Member, raw(101, octets, m.port)},

		{"POST /api/job/{id}/restore", "restoreJob", "Bring a deleted job back, by its id or the name it had", auth.Member, writes(m, 200, m.restoreJob)},
		{"GET /api/job/{id}/code/{versionId}/file/{path...}", "getFile", "Read one file of a version as it is", auth.Member, raw(200, octets, m.getFile)},
		{"GET /api/job/{id}/run", "listJobRuns", "List the runs of a job, newest first", auth.Member, reads(200, m.listJobRuns)},
		{"GET /api/job/{id}/judged", "judgeJob", "Read which metric a job is judged by and why, how each of its newest 200 runs did by it, and which is the best", auth.Member, reads(200, m.judgeJob)},
		{"POST /api/job/{id}/rule/dry-run", "tryRules", "Try action rules on a run that was: what would have fired, when and why. Nothing is done", auth.Member, reads(200, m.tryRules)},

		{"GET /api/job/{id}/kernel", "getKernel", "Read where the kernel of a job stands: docs/reference/kernel.md", auth.Member, reads(200, m.getKernel)},
		{"POST /api/job/{id}/kernel", "startKernel", "Start the kernel of a job: an interactive Python in its environment. Where one lives, it is that, with 200", auth.Member, writes(m, 202, m.startKernel).or(200)},
		{"POST /api/job/{id}/kernel/stop", "stopKernel", "Stop the kernel of a job", auth.Member, writes(m, 202, m.stopKernel)},
		{"POST /api/job/{id}/kernel/restart", "restartKernel", "Begin the kernel of a job again, with nothing of what it knew", auth.Member, reads(200, m.restartKernel)},
		{"POST /api/job/{id}/kernel/interrupt", "interruptKernel", "Interrupt what a kernel executes, and drop what waits", auth.Member, reads(200, m.interruptKernel)},
		{"POST /api/job/{id}/kernel/execute", "execute", "Execute code in the kernel of a job, which is started where none lives. What it says is topic kernel of the live stream", auth.Member, writes(m, 202, m.execute)},
		{"GET /api/job/{id}/kernel/execution", "listExecutions", "List what a kernel was given to execute and how it went, newest first", auth.Member, reads(200, m.listExecutions)},
		{"POST /api/job/{id}/kernel/input", "kernelInput", "Answer what a program asks its user", auth.Member, reads(200, m.kernelInput)},
		{"POST /api/job/{id}/kernel/complete", "kernelComplete", "Say what may stand at a place in some code, by what the kernel knows now", auth.Member, reads(200, m.kernelComplete)},
		{"POST /api/job/{id}/kernel/inspect", "kernelInspect", "Say what is known of the name at a place in some code", auth.Member, reads(200, m.kernelInspect)},
		{"GET /api/job/{id}/kernel/variables", "listVariables", "List the variables of a kernel", auth.Member, reads(200, m.kernelVariables)},
		{"GET /api/job/{id}/lsp", "openLSP", "Talk to a language server in the environment of a live kernel, over a WebSocket whose texts are messages of LSP", auth.Member, raw(101, "application/json", m.lsp)},

		{"GET /api/job/{id}/jupyter/api", "jupyterVersion", "Read of which version the API of Jupyter is that a job answers: docs/how-to/jupyter.md", auth.Member, reads(200, m.jupyterVersion)},
		{"GET /api/job/{id}/jupyter/api/status", "jupyterStatus", "Read how busy it is", auth.Member, reads(200, m.jupyterStatus)},
		{"GET /api/job/{id}/jupyter/api/kernelspecs", "jupyterSpecs", "Read what kernels there are: the job's", auth.Member, reads(200, m.jupyterSpecs)},
		{"GET /api/job/{id}/jupyter/api/kernelspecs/{name}", "jupyterSpec", "Read what one kind of kernel is", auth.Member, reads(200, m.jupyterSpec)},
		{"GET /api/job/{id}/jupyter/api/kernels", "jupyterKernels", "List the kernel of the job, if it lives", auth.Member, reads(200, m.jupyterKernels)},
		{"POST /api/job/{id}/jupyter/api/kernels", "jupyterStart", "Start the kernel of the job; where one lives, it is that", auth.Member, writes(m, 201, m.jupyterStart)},
		{"GET /api/job/{id}/jupyter/api/kernels/{kernel}", "jupyterKernel", "Read the kernel", auth.Member, reads(200, m.jupyterKernel)},
		{"DELETE /api/job/{id}/jupyter/api/kernels/{kernel}", "jupyterStop", "Stop the kernel", auth.Member, writes(m, 204, m.jupyterStop)},
		{"POST /api/job/{id}/jupyter/api/kernels/{kernel}/interrupt", "jupyterInterrupt", "Interrupt the kernel", auth.Member, reads(204, m.jupyterInterrupt)},
		{"POST /api/job/{id}/jupyter/api/kernels/{kernel}/restart", "jupyterRestart", "Begin the kernel again", auth.Member, reads(200, m.jupyterRestart)},
		{"GET /api/job/{id}/jupyter/api/kernels/{kernel}/channels", "jupyterChannels", "Talk Jupyter's protocol to the kernel, over a WebSocket whose texts are its messages", auth.Member, raw(101, "application/json", m.jupyterChannels)},
		{"GET /api/job/{id}/jupyter/api/sessions", "jupyterSessions", "List the kernel of the job as a session", auth.Member, reads(200, m.jupyterSessions)},
		{"POST /api/job/{id}/jupyter/api/sessions", "jupyterBegin", "Begin a session: start the kernel, or take the one that lives", auth.Member, writes(m, 201, m.jupyterBegin)},
		{"DELETE /api/job/{id}/jupyter/api/sessions/{kernel}", "jupyterEnd", "End a session: stop the kernel", auth.Member, writes(m, 204, m.jupyterStop)},

		{"POST /api/job/{id}/eject", "ejectJob", "Make a composed job an ordinary one: its program becomes its code, to be changed", auth.Member, writes(m, 200, m.ejectJob)},
		{"POST /api/job/{id}/code/git", "fetchCode", "Make a version of a folder of a git repository, which the platform fetches; its labels say which commit it was", auth.Member, writes(m, 201, m.gitCode).or(200)},
		{"POST /api/compose", "compose", "Say what the composed network of a job comes to: shapes, parameters, what is wrong, its program. Nothing is kept", auth.Member, reads(200, m.composeJob)},
		{"POST /api/plan", "planJob", "Say what would become of a job that is run now: which cluster, what it is given or waits for, what is done to its code, and why. Nothing is done", auth.Member, reads(200, m.planJob).takes(new(PlanAsk))},
		{"GET /api/template", "listTemplates", "List the templates of guiding mode, with their files", auth.Member, reads(200, m.listTemplates)},

		{"GET /api/run", "listRuns", "List the runs of all jobs, newest first", auth.Member, reads(200, m.listRuns)},
		{"GET /api/run/{id}", "getRun", "Read a run", auth.Member, reads(200, m.getRun)},
		{"POST /api/run/{id}/stop", "stopRun", "Stop a run", auth.Member, writes(m, 202, m.stopRun)},
		{"POST /api/run/{id}/anywhere", "runAnywhere", "Let a run on every node again, also those that its rules have kept it from", auth.Member, writes(m, 202, m.runAnywhere)},
		{"GET /api/run/{id}/node", "listRunReplicas", "List the replicas of a run", auth.Member, reads(200, m.listRunNodes)},
		{"GET /api/run/{id}/log", "getRunLog", "Read or follow what all replicas of a run write, in the order of arrival", auth.Member, raw(200, ndjson, m.runLog).gives(new(RunLine))},
		{"GET /api/run/{id}/metric", "getRunMetrics", "Read the curves of a run", auth.Member, reads(200, m.runMetric)},
		{"GET /api/run/{id}/evaluation", "listEvaluations", "List what a run's program evaluated, newest first", auth.Member, reads(200, m.listEvaluations)},
		{"GET /api/run/{id}/evaluation/{name...}", "getEvaluation", "Read one evaluation whole, the newest of its name where not said; with ?format=csv one chart of it as a table", auth.Member, raw(200, "application/json", m.getEvaluation).gives(new(mlaas.EvaluationContent)).as("text/csv")},
		{"GET /api/run/{id}/checkpoint", "listCheckpoints", "List the checkpoints of a run, newest first", auth.Member, reads(200, m.listCheckpoints)},
		{"GET /api/run/{id}/artifact", "listArtifacts", "List the files that a run left in $MLAAS_OUTPUT", auth.Member, reads(200, m.listArtifacts)},
		{"GET /api/run/{id}/artifact/{replica}/{path...}", "getArtifact", "Read one of those files as it is", auth.Member, raw(200, octets, m.getArtifact)},
		{"GET /api/run/{id}/delivery", "listDeliveries", "List the webhooks that rules of a run sent, newest first, with each try", auth.Member, reads(200, m.listDeliveries)},
		{"POST /api/run/{id}/delivery/{delivery}/redeliver", "redeliver", "Send a webhook again: the same event, with the same id", auth.Member, writes(m, 202, m.redeliver)},

		{"GET /api/dataset", "listDatasets", "List the datasets, all versions", auth.Member, reads(200, m.listDatasets)},
		{"POST /api/dataset", "createDataset", "Make a version of a dataset from files whose bytes are here. Equal content is the version that is there, with 200", auth.Member, writes(m, 201, m.createDataset).or(200)},
		{"GET /api/dataset/{name}", "listDatasetVersions", "List the versions of a dataset, newest first", auth.Member, reads(200, m.listDatasetVersions)},
		{"POST /api/dataset/{name}", "pushDataset", "Make a version of a dataset: of JSON, a zip or a tar.gz", auth.Member, writes(m, 201, m.pushDataset).or(200)},
		{"DELETE /api/dataset/{name}", "deleteDataset", "Delete every version of a dataset that no live run uses", auth.Member, writes(m, 204, m.deleteDataset)},
		{"GET /api/dataset/{name}/{version}", "getDataset", "Read a version of a dataset, with its files", auth.Member, reads(200, m.getDataset)},
		{"HEAD /api/blob/{digest}", "hasBlob", "Ask whether bytes are here", auth.Member, raw(200, octets, m.headBlob)},
		{"GET /api/blob/{digest}", "getBlob", "Read bytes by their digest", auth.Member, raw(200, octets, m.getBlob)},
		{"PUT /api/blob/{digest}", "putBlob", "Keep bytes under their digest, to name them in a dataset or a version", auth.Member, raw(201, "application/json", m.putBlob).gives(new(BlobInfo)).or(200).bytes()},

		{"GET /api/environment", "listEnvironments", "List what environments can be of, and those that were resolved", auth.Member, reads(200, m.listEnvironments)},
		{"GET /api/environment/{spec}", "getEnvironment", "Read what an environment was resolved to", auth.Member, reads(200, m.getEnvironment)},
		{"PATCH /api/environment/{spec}", "setLock", "Make a lock the one that runs from now on get; the one before is kept, to go back to", auth.Member, writes(m, 200, m.setLock)},
		{"GET /api/cluster", "listClusters", "List the places to run replicas, and what of them is promised", auth.Member, reads(200, m.listClusters)},
		{"POST /api/cluster", "addCluster", "Add a place to run replicas; a booster connects to it within seconds", auth.Admin, writes(m, 201, m.addCluster)},
		{"GET /api/cluster/{name}", "getCluster", "Read one place to run replicas", auth.Member, reads(200, m.getCluster)},
		{"PATCH /api/cluster/{name}", "editCluster", "Change a cluster by a JSON merge patch (RFC 7396): how it is reached, what it lends, and with wanted whether runs are placed on it", auth.Admin, writes(m, 200, m.editCluster).takes(new(ClusterPatch))},
		{"DELETE /api/cluster/{name}", "removeCluster", "Remove a cluster: what runs there moves elsewhere from its last checkpoint, and then it is forgotten", auth.Admin, writes(m, 202, m.removeCluster)},
		{"POST /api/cluster/{name}/token", "createClusterToken", "Make the token that the booster inside a remote cluster shows to a gateway; the one before is worth nothing from then on", auth.Admin, reads(201, m.clusterToken)},
		{"GET /api/status", "getStatus", "Read how the platform is: version, disk, store, replicas, what is not enforced", auth.Member, reads(200, m.status)},
		{"GET /api/message", "listMessages", "List the messages between the services that were given up, oldest first", auth.Admin, reads(200, m.listMessages)},
		{"POST /api/message/{id}/requeue", "requeueMessage", "Deliver a message that was given up again", auth.Admin, reads(204, m.requeueMessage)},
		{"GET /api/backup", "backup", "Copy the platform while it works: records and messages of one commit, series, and all content that they name, as a tar", auth.Admin, raw(200, "application/x-tar", m.backup)},
		{"POST /api/gc", "collect", "Remove what nothing needs: it is done daily by itself", auth.Admin, reads(200, m.gc)},
		{"GET /api/stream", "stream", "Follow jobs, replicas, logs and curves live, over one WebSocket or as NDJSON", auth.Member, raw(200, ndjson, m.stream).gives(new(StreamEvent))},

		{"GET /api/secret", "listSecrets", "List the secrets, without what they hold", auth.Member, reads(200, m.listSecrets)},
		{"POST /api/secret", "setSecret", "Set a secret: the next version of it", auth.Member, writes(m, 201, m.setSecret)},
		{"DELETE /api/secret/{name}", "deleteSecret", "Delete every version of a secret", auth.Member, writes(m, 204, m.deleteSecret)},
		{"GET /api/notification", "listNotifications", "List whom you want to be told when runs end, newest first", auth.Member, reads(200, m.listNotifications)},
		{"POST /api/notification", "createNotification", "Have a webhook or a mailbox told when runs end", auth.Member, writes(m, 201, m.createNotification)},
		{"DELETE /api/notification/{id}", "deleteNotification", "Have it told no more", auth.Member, writes(m, 204, m.deleteNotification)},
		{"POST /api/notification/{id}/test", "testNotification", "Send it a test; its deliveries say how that went", auth.Member, writes(m, 202, m.testNotification)},
		{"GET /api/notification/{id}/delivery", "listNotificationDeliveries", "List what it was sent, with each try", auth.Member, reads(200, m.listNotificationDeliveries)},
		{"POST /api/notification/{id}/delivery/{delivery}/redeliver", "redeliverNotification", "Send it one again: the same event, with the same id", auth.Member, writes(m, 202, m.redeliverNotification)},
		{"GET /api/view", "listViews", "List the views of pages that you have saved, by name", auth.Member, reads(200, m.listViews)},
		{"POST /api/view", "saveView", "Save a view of a page: its filter, order and columns", auth.Member, writes(m, 200, m.saveView)},
		{"DELETE /api/view/{name}", "deleteView", "Delete a saved view", auth.Member, writes(m, 204, m.deleteView)},
		{"GET /api/session", "listSessions", "List the logins", auth.Member, reads(200, m.listSessions)},
		{"POST /api/session/link", "createLoginLink", "Make a link that lets one browser in, once", auth.Admin, reads(201, m.invite)},
		{"DELETE /api/session/{id}", "revokeSession", "End a login", auth.Member, writes(m, 204, m.revokeSession)},
		{"GET /login", "login", "Let a browser in by the link that mlaas up printed", auth.Public, raw(200, "text/html", m.login)},

		{"GET /livez", "livez", "Ask whether the process lives", auth.Public, reads(200, m.livez)},
		{"GET /metrics", "metrics", "Read what this process counts, as Prometheus does", auth.Admin, raw(200, "text/plain", m.metrics)},
		{"GET /readyz", "readyz", "Ask whether requests can be served; with a token, how each check went", auth.Public, raw(200, "application/json", m.readyz).gives(new(health.Answer)).or(503)},
		{"GET /openapi.json", "openapiJSON", "Read this document", auth.Public, raw(200, "application/json", m.openapiJSON)},
		{"GET /openapi.yaml", "openapiYAML", "Read this document as YAML", auth.Public, raw(200, "application/yaml", m.openapiYAML)},
		{"GET /api/problem/{code}", "getProblem", "Read what a kind of problem is, and what to do about it", auth.Public, raw(200, "application/json", m.seeProblem).gives(new(ProblemKind))},
		{"GET /api/docs", "listDocs", "List the pages of the documentation, or search them", auth.Member, reads(200, m.listDocs)},
		{"GET /api/docs/{path...}", "getDoc", "Read a page of the documentation", auth.Member, reads(200, m.getDoc)},
	}
}

const (
	ndjson = "application/x-ndjson"
	octets = "application/octet-stream"
)

// A JobPatch is a JSON merge patch of a job: every field may be left away, and
// null takes one away.
type JobPatch mlaas.JobSpec
