// Types that several modules of static/js share. Those of the API are in api.d.ts, made from its OpenAPI document.

/** What a page is given to show itself. */
interface PageContext {
  root: HTMLElement;
  /** The part of the address that names one thing, such as a job. */
  id?: string;
  query: URLSearchParams;
  /** What the page remembered of itself, if the user comes back to it. */
  memory?: any;
  /** Aborts when the user leaves the page. */
  signal: AbortSignal;
  setTitle(title: string): void;
  /** Tells users of a screen reader what changed. */
  announce(text: string): void;
}

/** A page that can show another query in place. */
interface PageView {
  update(query: URLSearchParams): void;
  /** What to give the page when the user comes back to it. */
  remember?(): unknown;
}

/** Parameters of a request; empty ones are left out. */
type RequestParameters = Record<string, string | number | null | undefined | (string | number)[]>;

/** Requests of the dashboard, as api/client.js sends them. */
interface ApiClient {
  summaries(parameters: RequestParameters, signal?: AbortSignal): Promise<Schemas['Summaries']>;
  labels(parameters: RequestParameters, signal?: AbortSignal): Promise<Schemas['List_Label']>;
  groups(parameters: RequestParameters, signal?: AbortSignal): Promise<Schemas['Groups']>;
  settings(signal?: AbortSignal): Promise<Schemas['List_KnownSetting']>;
  pareto(parameters: RequestParameters, signal?: AbortSignal): Promise<Schemas['Pareto']>;
  job(id: string, signal?: AbortSignal): Promise<Schemas['JobDetails']>;
  metrics(id: string, which: { name?: string[], maxPoints: number }, signal?: AbortSignal): Promise<Schemas['Metrics']>;
  metricsCsv(id: string): Promise<Blob>;
  events(id: string, which: { after: number, limit: number }, signal?: AbortSignal): Promise<Schemas['History']>;
  /** What is new about a job after a position, which is `next` of the last answer. */
  updates(id: string, after: string, signal?: AbortSignal): Promise<Schemas['Updates']>;
  attempts(id: string, signal?: AbortSignal): Promise<Schemas['List_Attempt']>;
  /** Jobs that match a search and whose student is, or will be, a teacher. */
  possibleTeachers(q: string, signal?: AbortSignal): Promise<Schemas['Summaries']>;
  submitted(id: string, signal?: AbortSignal): Promise<Schemas['JobSpecRequest']>;
  artifacts(id: string, signal?: AbortSignal): Promise<Schemas['List_Artifact']>;
  /** The report on an export of the best student, which is written for that. */
  exportReport(id: string, format: string, signal?: AbortSignal): Promise<any>;
  regions(id: string, signal?: AbortSignal): Promise<any>;
  predictionSummary(id: string, signal?: AbortSignal): Promise<Schemas['PredictionReport']>;
  predictions(id: string, parameters: RequestParameters, signal?: AbortSignal): Promise<Schemas['PredictionPage']>;
  change(id: string, verb: string): Promise<Schemas['Job']>;
  remove(id: string): Promise<null>;
  check(body: string, bounds: RequestParameters, signal?: AbortSignal): Promise<Schemas['DryRun']>;
  create(body: string, bounds: RequestParameters, key: string): Promise<Schemas['Job']>;
  /** A page of sweeps, from `next` of the last one on. */
  sweeps(after?: string | null, signal?: AbortSignal): Promise<Schemas['Page_Sweep']>;
  sweep(id: string, signal?: AbortSignal): Promise<Schemas['SweepDetails']>;
  sweepCsv(id: string): Promise<Blob>;
  checkSweep(body: string, bounds: RequestParameters, signal?: AbortSignal): Promise<Schemas['SweepDryRun']>;
  createSweep(body: string, bounds: RequestParameters, key: string): Promise<Schemas['SweepDetails']>;
  changeSweep(id: string, verb: string): Promise<Schemas['SweepDetails']>;
  removeSweep(id: string): Promise<null>;
  architectures(signal?: AbortSignal): Promise<Schemas['List_Architecture']>;
  datasets(signal?: AbortSignal): Promise<Schemas['DatasetList']>;
  dataset(name: string, signal?: AbortSignal): Promise<Schemas['DatasetDetails']>;
  datasetImages(name: string, parameters: RequestParameters, signal?: AbortSignal): Promise<Schemas['ImagePage']>;
  datasetUpload(name: string, upload: string, signal?: AbortSignal): Promise<Schemas['PartialUpload']>;
  removeUpload(name: string, upload: string): Promise<null>;
  /** Removes the shards of a split that wait for others. */
  removeShards(name: string, split: string): Promise<null>;
  removeDataset(name: string): Promise<null>;
  /** A page of checkpoints, from `next` of the last one on. */
  checkpoints(after?: string | null, signal?: AbortSignal): Promise<Schemas['Page_Checkpoint']>;
  workers(signal?: AbortSignal): Promise<Schemas['List_Worker']>;
  /** The OpenAPI document. */
  description(signal?: AbortSignal): Promise<any>;
  system(signal?: AbortSignal): Promise<Schemas['System']>;
  session(signal?: AbortSignal): Promise<Schemas['Session']>;
  signIn(token: string): Promise<null>;
  signOut(): Promise<null>;
}

type Dataset = Schemas['Summary'];

/** A JSON pointer (RFC 6901) into a document that was sent, and what is wrong there. */
type Fault = Schemas['Fault'];

type ConnectionState = 'idle' | 'connecting' | 'live' | 'late' | 'lost' | 'ended';

/** What a user can ask of a job. */
type Verb = 'pause' | 'resume' | 'retry' | 'cancel' | 'delete';

/** What the dialog of ui/dom.js asks. */
interface Question {
  title: string;
  detail: string;
  yes: string;
  no?: string;
  danger?: boolean;
}
