/** The actions that the administrators' page asks for, over HTTP. */
import type { Actions } from "../contract.gen.ts";
import { request } from "../session.ts";

const ROUTES = {
  me: "GET /api/me",
  get_registration: "GET /api/registration",
  get_audit: "GET /api/audit",
  admin_get_users: "GET /api/admin/users",
  admin_disable_user: "POST /api/admin/users/{username}/disable",
  admin_enable_user: "POST /api/admin/users/{username}/enable",
  admin_delete_user: "DELETE /api/admin/users/{username}",
  admin_reset_password: "POST /api/admin/users/{username}/reset-password",
  admin_get_sessions: "GET /api/admin/users/{username}/sessions",
  end_sessions: "DELETE /api/users/{username}/sessions",
  admin_get_rooms: "GET /api/admin/rooms",
  delete_room: "DELETE /api/rooms/{room_id}",
  admin_get_reports: "GET /api/admin/reports",
  close_report: "DELETE /api/reports/{report_id}",
  set_registration: "PUT /api/admin/registration",
  create_registration_link: "POST /api/admin/registration-links",
  get_registration_links: "GET /api/admin/registration-links",
  delete_registration_link: "DELETE /api/admin/registration-links/{link_id}",
  admin_get_keys: "GET /api/admin/keys",
  admin_create_key: "POST /api/admin/keys",
  admin_revoke_key: "DELETE /api/admin/keys/{key_id}",
  admin_get_webhooks: "GET /api/admin/webhooks",
  admin_create_webhook: "POST /api/admin/webhooks",
  admin_test_webhook: "POST /api/admin/webhooks/{webhook_id}/test",
  admin_enable_webhook: "POST /api/admin/webhooks/{webhook_id}/enable",
  admin_delete_webhook: "DELETE /api/admin/webhooks/{webhook_id}",
  admin_get_health: "GET /api/admin/health",
} as const satisfies Partial<Record<keyof Actions, string>>;

type AdminAction = keyof typeof ROUTES;

/** Raises a `TidingsError`. */
export type Ask = <A extends AdminAction>(
  action: A,
  fields: Actions[A]["request"],
) => Promise<Actions[A]["response"]>;

export function askWith(token: () => Promise<string>): Ask {
  return async (action, fields) => {
    const [method = "", route = ""] = ROUTES[action].split(" ");
    const rest = new Map(Object.entries(fields ?? {}).filter(([, value]) => value !== undefined && value !== null));
    const path = route.replace(/\{(\w+)\}/g, (_, name: string) => {
      const value = encodeURIComponent(String(rest.get(name)));
      rest.delete(name);
      return value;
    });
    const headers = { authorization: `Bearer ${await token()}`, "content-type": "application/json" };
    const inBody = method === "POST" || method === "PUT";
    const query = inBody ? "" : `?${new URLSearchParams([...rest].map(([name, value]) => [name, String(value)]))}`;
    const body = inBody ? { body: JSON.stringify(Object.fromEntries(rest)) } : {};
    // Relative, because the server may be mounted below a prefix.
    return (await request(`.${path}${query}`, { method, headers, ...body })) as Awaited<ReturnType<Ask>> as never;
  };
}
