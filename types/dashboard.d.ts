// Types that several modules of static/js share. Those of the API are in api.d.ts, made from its OpenAPI document.

/** What a page is given to show itself. */
interface PageContext {
  root: HTMLElement;
  /** The part of the address that names one thing, such as a job. */
  id?: string;
  query: URLSearchParams;
  /** Aborts when the user leaves the page. */
  signal: AbortSignal;
  setTitle(title: string): void;
  /** Tells users of a screen reader what changed. */
  announce(text: string): void;
}

/** A page that can show another query in place. */
interface PageView {
  update(query: URLSearchParams): void;
}

type Dataset = Schemas['Summary'];

/** A JSON pointer (RFC 6901) into a document that was sent, and what is wrong there. */
type Fault = Schemas['Fault'];

type ConnectionState = 'idle' | 'connecting' | 'live' | 'lost' | 'ended';

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
