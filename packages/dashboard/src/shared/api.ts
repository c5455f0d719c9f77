/**
 * Every endpoint of the page's server. With its request and its answer. The page and the server both take the types from here.
 *
 * All answers are JSON (but pictures and the stream), of status 200; a mistake is `{ error: FieldError }` with a status of 400 or above.
 * Requests that write have `content-type: application/json`. The page's cookie, or `Authorization: Bearer TOKEN`, goes with all of them;
 * The language of messages is that of the header accept-language. `POST /api/session` makes the cookie of the token in the address's fragment.
 */
import type { Job, JobRequest } from './jobs.js';
import type {
  ActionAnswer,
  AnswerIndex,
  CheckpointList,
  DeleteRequest,
  EndRequest,
  ImageSlices,
  LogWindow,
  Recipe,
  ResumeRequest,
  RunDetails,
  RunList,
  Series,
  SeriesRequest,
  StepAnswers,
  UserNotes,
} from './runs.js';
import type {
  ChatModel,
  ChatStartRequest,
  CheckedValues,
  DataReport,
  DoctorReport,
  DryRunAnswer,
  EstimateAnswer,
  EstimateRequest,
  FieldError,
  FlagsTable,
  Machine,
  OpenDataRequest,
  OpenedData,
  RecipeAnswer,
  RecipeRequest,
  RecordPage,
  RecordRequest,
  RecordsRequest,
  RecordView,
  StartAnswer,
  StartRequest,
  ValuesRequest,
} from './tools.js';

export type * from './jobs.js';
export type * from './runs.js';
export type * from './stream.js';
export type * from './tools.js';

/** Method and path -> what is sent (query of GET, JSON body of the others) and what is answered. */
export interface Endpoints {
  /** 401: the token is wrong. */
  'POST /api/session': { request: { token: string }; answer: { version: string } };
  /** 200 with a session, 401 without one. */
  'GET /api/session': { request: Nothing; answer: { version: string } };

  'GET /api/runs': { request: Nothing; answer: RunList };
  'GET /api/runs/:id': { request: Nothing; answer: RunDetails };
  'GET /api/runs/:id/series': { request: SeriesRequest; answer: Series };
  'GET /api/runs/:id/answers': { request: Nothing; answer: AnswerIndex };
  'GET /api/runs/:id/answers/:step': { request: Nothing; answer: StepAnswers };
  'GET /api/images/:handle': { request: { w?: number }; answer: Blob };
  'GET /api/images/:handle/slices': { request: Nothing; answer: ImageSlices };
  'GET /api/runs/:id/checkpoints': { request: Nothing; answer: CheckpointList };
  'GET /api/runs/:id/recipe': { request: Nothing; answer: Recipe };
  'GET /api/log/:id': { request: { from?: number; last?: number }; answer: LogWindow };

  'POST /api/runs/:id/stop': { request: Nothing; answer: ActionAnswer };
  'POST /api/runs/:id/save': { request: Nothing; answer: ActionAnswer };
  'POST /api/runs/:id/end': { request: EndRequest; answer: ActionAnswer };
  'POST /api/runs/:id/resume': { request: ResumeRequest; answer: ActionAnswer };
  'POST /api/runs/:id/archive': { request: { archived: boolean }; answer: ActionAnswer };
  'POST /api/runs/:id/delete': { request: DeleteRequest; answer: ActionAnswer };
  'POST /api/runs/:id/checkpoints/:step/delete': { request: Nothing; answer: ActionAnswer };
  /** Of the run, newest first. */
  'GET /api/runs/:id/jobs': { request: Nothing; answer: { jobs: readonly Job[] } };
  'POST /api/runs/:id/jobs': { request: JobRequest; answer: Job };
  /** Ends its process; what is asked stays, what is written half is the command's to remove. */
  'POST /api/jobs/:job/stop': { request: Nothing; answer: Job };
  'PUT /api/runs/:id/ui': { request: Partial<UserNotes>; answer: ActionAnswer };

  'GET /api/flags': { request: Nothing; answer: FlagsTable };
  'POST /api/command': { request: ValuesRequest; answer: CheckedValues };
  'POST /api/dry-run': { request: ValuesRequest; answer: DryRunAnswer };
  'POST /api/estimate': { request: EstimateRequest; answer: EstimateAnswer };
  'POST /api/recipe': { request: RecipeRequest; answer: RecipeAnswer };
  'POST /api/runs': { request: StartRequest; answer: StartAnswer };

  'GET /api/data': { request: Nothing; answer: { opened: readonly OpenedData[] } };
  'POST /api/data/open': { request: OpenDataRequest; answer: OpenedData };
  'POST /api/data/:data/close': { request: Nothing; answer: Nothing };
  'GET /api/data/:data/report': { request: Nothing; answer: DataReport };
  'GET /api/data/:data/records': { request: RecordsRequest; answer: RecordPage };
  'GET /api/data/:data/records/:n': { request: RecordRequest; answer: RecordView };
  'GET /api/data/:data/records/:n/images/:image': { request: { w?: number }; answer: Blob };
  'GET /api/data/:data/records/:n/videos/:video': { request: { w?: number }; answer: Blob };
  'GET /api/data/:data/records/:n/pictures/:picture': {
    request: RecordRequest & { compat?: 'inference' | 'official' };
    answer: Blob;
  };

  'GET /api/chat': { request: Nothing; answer: { models: readonly ChatModel[] } };
  'POST /api/chat': { request: ChatStartRequest; answer: ChatModel };
  /** Frees the model; its process ends with the last one. */
  'POST /api/chat/:id/close': { request: Nothing; answer: Nothing };
  /** The body and the answer are those of `minicpm-finetune serve`, without `model`; a stream where `stream` is true. */
  'POST /api/chat/:id/v1/chat/completions': { request: Readonly<Record<string, unknown>>; answer: Response };

  'GET /api/machine': { request: Nothing; answer: Machine };
  'POST /api/machine/doctor': { request: Nothing; answer: DoctorReport };
}

type Nothing = Record<string, never>;

/** The answer of every status of 400 and above. */
export interface ErrorAnswer {
  error: FieldError;
}
