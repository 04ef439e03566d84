-- BC-003 010: indexes besides those of primary keys and unique constraints.
--
-- purpose     one per foreign key that deletions look through, and one per way the application and the agent read
-- privilege   owner of the database
-- versions    PostgreSQL 14 to 18
--
-- An index on a partitioned parent is made on every partition, also on those to come.

CREATE INDEX users_status_idx ON public.users (status) WHERE status <> 'active';

CREATE INDEX user_roles_role_id_idx ON public.user_roles (role_id);
CREATE INDEX user_roles_granted_by_idx ON public.user_roles (granted_by);
CREATE INDEX role_permissions_permission_id_idx ON public.role_permissions (permission_id);

CREATE INDEX sessions_user_id_idx ON public.sessions (user_id);
CREATE INDEX sessions_open_idx ON public.sessions (expires_at) WHERE revoked_at IS NULL;

CREATE INDEX password_history_user_id_idx ON public.password_history (user_id, replaced_at);

CREATE INDEX audit_logs_recorded_at_idx ON public.audit_logs (recorded_at);
CREATE INDEX audit_logs_user_id_idx ON public.audit_logs (user_id, recorded_at);

CREATE INDEX security_events_detected_at_idx ON public.security_events (detected_at);
CREATE INDEX security_events_user_id_idx ON public.security_events (user_id, detected_at);
CREATE INDEX security_events_unresolved_idx ON public.security_events (severity, detected_at) WHERE resolved_at IS NULL;

CREATE INDEX security_policies_updated_by_idx ON public.security_policies (updated_by);

CREATE INDEX login_attempts_email_idx ON public.login_attempts (email, attempted_at);
CREATE INDEX login_attempts_ip_address_idx ON public.login_attempts (ip_address, attempted_at);
