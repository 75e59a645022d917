//! The reconciler as a black box: the binary, a tree, and a real backend. Every scenario runs on
//! every backend that this machine has; each looks at what exists, not at what was printed.

mod interrupted;
mod outage;
mod rig;
mod scenarios;
mod secrets;
mod watch;

macro_rules! on_every_backend {
    ($($module:ident :: $scenario:ident),* $(,)?) => {
        mod native {
            $(#[test] fn $scenario() { super::$module::$scenario(&super::rig::Rig::native(stringify!($scenario))); })*
        }
        mod docker {
            $(#[test] fn $scenario() {
                if let Some(rig) = super::rig::Rig::docker(stringify!($scenario)) {
                    super::$module::$scenario(&rig);
                }
            })*
        }
    };
}

on_every_backend! {
    scenarios::twenty_agents_and_then_nothing_to_do,
    scenarios::an_edited_prompt_goes_in_in_place,
    scenarios::a_removed_skill_file_and_a_dropped_skill_are_gone_inside,
    scenarios::a_changed_limit_is_one_replace_that_names_the_field,
    scenarios::a_deleted_agent_is_one_teardown,
    scenarios::a_stopped_machine_runs_again_with_its_files,
    scenarios::a_broken_file_holds_its_sandbox_and_the_rest_converges,
    scenarios::a_skill_that_points_outside_is_refused,
    scenarios::an_emptied_tree_removes_nothing,
    scenarios::two_appliers_on_one_tree,
    scenarios::two_trees_never_see_each_other,
    scenarios::a_saved_plan_is_refused_when_anything_has_moved,
    scenarios::a_workspace_is_copied_once,
    scenarios::a_command_starts_after_provisioning_and_completes,
    interrupted::killed_at_fifty_moments_and_converged_each_time,
    secrets::an_asked_for_value_is_found_nowhere,
    watch::a_saved_prompt_is_live,
    watch::a_machine_that_goes_down_is_repaired,
    watch::a_tree_that_breaks_in_the_middle_of_an_edit_holds_what_is_broken,
    watch::a_tree_renamed_away_and_back_loses_nothing,
    watch::it_drains_on_sigterm,
}

/// What only Docker has: objects that others can make, rename and remove behind our back.
mod engine {
    use super::rig::Rig;

    macro_rules! on_docker {
        ($($scenario:ident),* $(,)?) => {
            $(#[test] fn $scenario() {
                if let Some(rig) = Rig::docker(stringify!($scenario)) {
                    super::scenarios::engine::$scenario(&rig);
                }
            })*
        };
    }

    on_docker! {
        a_removed_container_comes_back_and_no_other_is_touched,
        an_image_that_cannot_be_had_leaves_the_old_sandbox_running,
        a_container_of_someone_else_is_a_conflict_and_untouched,
        a_tag_that_moved_is_said_and_used_for_new_machines_only,
        a_reader_that_goes_away_ends_exec,
        a_network_attached_by_hand_is_taken_off_again,
        an_imported_image_goes_when_nothing_stands_on_it,
    }
}
